// The server behind the cases: npm's ws, which passes them all once its limits are off. Prints its
// port, ends with its stdin.
import { WebSocketServer } from "ws";

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  // Below ws's threshold of 1024 B some answers would come uncompressed: kosoku itself fails on those.
  perMessageDeflate: { threshold: 0 },
  maxPayload: 0,
  maxFragments: 0,
  maxBufferedChunks: 0,
});
server.on("listening", () => console.log(server.address().port));
server.on("connection", (socket) => {
  socket.on("error", () => {}); // a case that breaks the protocol: ws has closed it already
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
});
process.stdin.resume();
process.stdin.on("end", () => process.exit());
