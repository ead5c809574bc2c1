// A server of one kind, which says its number to each client: node server.cjs KIND NUMBER
// Prints its port. What it knows of its clients is in this process alone, as with any of the three.
"use strict";
const http = require("node:http");

const [kind, number] = process.argv.slice(2);
const server = http.createServer((_, answer) => answer.writeHead(404).end());

const kinds = {
  // The real one.
  socketio() {
    const { Server } = require("socket.io");
    new Server(server).on("connection", (socket) => {
      socket.on("who", (answer) => answer(number));
    });
  },

  // The real one.
  sockjs() {
    const echo = require("sockjs").createServer({ log() {} });
    echo.on("connection", (client) => client.on("data", () => client.write(number)));
    echo.installHandlers(server, { prefix: "/sockjs" });
  },

  // A hub for the real client: there is no .NET here. It speaks the JSON protocol by WebSockets
  // and by long polls, and knows only those whom it has negotiated with itself.
  signalr() {
    const { WebSocketServer } = require("ws");
    const { randomUUID } = require("node:crypto");
    const known = new Map();
    const sockets = new WebSocketServer({ noServer: true });
    const idOf = (request) => new URL(request.url, "http://a").searchParams.get("id");

    // The answers to what a client has sent.
    function heard(text) {
      const messages = text.split("\x1e").filter(Boolean).map((message) => JSON.parse(message));
      const answers = messages.flatMap((message) => {
        if (message.protocol) return [{}];
        if (message.type === 1) return [{ type: 3, invocationId: message.invocationId, result: number }];
        return [];
      });
      return answers.map((answer) => JSON.stringify(answer) + "\x1e").join("");
    }

    function deliver(client) {
      if (client.poll && client.waiting) {
        client.poll.writeHead(200, { "Content-Type": "text/plain" }).end(client.waiting);
        [client.poll, client.waiting] = [null, ""];
      }
    }

    server.removeAllListeners("request");
    server.on("request", async (request, answer) => {
      let body = "";
      for await (const part of request) body += part;
      if (request.url.startsWith("/hub/negotiate")) {
        const token = randomUUID();
        known.set(token, { waiting: "", poll: null, polled: false });
        const transports = ["WebSockets", "LongPolling"];
        answer.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify({
          negotiateVersion: 1,
          connectionId: token,
          connectionToken: token,
          availableTransports: transports.map((transport) => ({ transport, transferFormats: ["Text"] })),
        }));
        return;
      }
      const client = known.get(idOf(request));
      if (!client) return answer.writeHead(404).end("No Connection with that ID");
      if (request.method === "POST") {
        client.waiting += heard(body);
        answer.writeHead(200).end();
      } else if (request.method === "DELETE") {
        known.delete(idOf(request));
        client.poll?.writeHead(204).end();
        answer.writeHead(202).end();
        return;
      } else if (!client.polled) {
        // The first poll only asks whether the connection is there.
        client.polled = true;
        answer.writeHead(200).end();
      } else {
        client.poll = answer;
      }
      deliver(client);
    });
    server.on("upgrade", (request, socket, head) => {
      if (!known.has(idOf(request))) return socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
      sockets.handleUpgrade(request, socket, head, (session) => {
        session.on("message", (text) => {
          const answer = heard(text.toString());
          if (answer) session.send(answer);
        });
      });
    });
  },
};

kinds[kind]();
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
