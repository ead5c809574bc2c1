// Clients of one kind, one after the other: node clients.cjs KIND COUNT PORT [TRANSPORT]
// Each must get its answers from one server. Prints how many did, and the servers of all.
"use strict";
const http = require("node:http");

const [kind, count, port, transport] = process.argv.slice(2);
const QUESTIONS = 5;
const PATIENCE = 5000;

const kinds = {
  // As browsers begin it: by polling, then by a WebSocket. Its client has a jar for cookies.
  async socketio(ask) {
    const { io } = require("socket.io-client");
    const socket = io(`http://127.0.0.1:${port}`, {
      forceNew: true,
      reconnection: false,
      transports: ["polling", "websocket"],
      withCredentials: true,
    });
    // It may come before "connect" does.
    const upgraded = new Promise((done) => socket.io.engine.once("upgrade", done));
    try {
      await new Promise((done, fail) => socket.on("connect", done).on("connect_error", fail));
      const lost = new Promise((_, fail) => socket.on("disconnect", (why) => fail(new Error(why))));
      const one = () => new Promise((done) => socket.emit("who", done));
      await Promise.race([lost, (async () => {
        await ask(one);
        await upgraded;
        await ask(one);
      })()]);
    } finally {
      socket.disconnect();
    }
  },

  // Its client keeps no cookies in Node.js, so here is a jar in place of the browser's.
  async sockjs(ask) {
    const SockJS = require("sockjs-client");
    const restore = withJar();
    const socket = new SockJS(`http://127.0.0.1:${port}/sockjs`, null, { transports: [transport] });
    try {
      await new Promise((done, fail) => {
        socket.onopen = done;
        socket.onclose = (event) => fail(new Error(`${event.code} ${event.reason}`));
      });
      await ask(() => new Promise((done, fail) => {
        socket.onmessage = (event) => done(event.data);
        socket.onclose = (event) => fail(new Error(`${event.code} ${event.reason}`));
        socket.send("who");
      }));
    } finally {
      socket.close();
      restore();
    }
  },

  // Its client has a jar for cookies.
  async signalr(ask) {
    const { HubConnectionBuilder, HttpTransportType, LogLevel } = require("@microsoft/signalr");
    const hub = new HubConnectionBuilder()
      .withUrl(`http://127.0.0.1:${port}/hub`, { transport: HttpTransportType[transport] })
      .configureLogging(LogLevel.None)
      .build();
    await hub.start();
    try {
      await ask(() => hub.invoke("who"));
    } finally {
      await hub.stop();
    }
  },
};

function withJar() {
  const real = http.request;
  const jar = new Map();
  http.request = function (options, ...rest) {
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
    if (cookie) options = { ...options, headers: { ...options.headers, Cookie: cookie } };
    return real.call(http, options, ...rest).prependListener("response", (answer) => {
      for (const set of answer.headers["set-cookie"] ?? []) {
        const [name, value] = set.split(";")[0].split("=");
        jar.set(name, value);
      }
    });
  };
  return () => { http.request = real; };
}

// The answers of one client.
async function one() {
  const heard = [];
  const ask = async (question) => {
    for (let asked = 0; asked < QUESTIONS; asked += 1) heard.push(await question());
  };
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error("too late")), PATIENCE); });
  try {
    await Promise.race([kinds[kind](ask), late]);
  } finally {
    clearTimeout(timer);
  }
  if (new Set(heard).size !== 1) throw new Error(`answers by ${heard}`);
  return heard[0];
}

process.on("unhandledRejection", () => {});
(async () => {
  const servers = new Set();
  let good = 0;
  for (let number = 0; number < Number(count); number += 1) {
    try {
      servers.add(await one());
      good += 1;
    } catch (error) {
      console.error(`${kind}, client ${number}: ${error.message}`);
    }
  }
  console.log(JSON.stringify({ good, servers: [...servers].sort() }));
  process.exit(0);
})();
