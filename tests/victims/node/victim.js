#!/usr/bin/env node
// The victim in JavaScript: libuv sockets on epoll, file work and getaddrinfo on its threads. The contract is in ../README.md.
'use strict';
const dns = require('dns').promises;
const fs = require('fs');
const http = require('http');
const net = require('net');

const NAME = 'node';
const show = (ip, port) => (net.isIPv6(ip) ? `[${ip}]:${port}` : `${ip}:${port}`);

const commands = {
  serve(port) {
    const server = http.createServer((request, response) => {
      const { remoteAddress, remotePort } = request.socket;
      const peer = show(remoteAddress, remotePort);
      const body = `{"lang":"${NAME}","peer":"${peer}","method":"${request.method}","path":"${request.url}"}`;
      request.resume(); // drop the body
      response.writeHead(200, {
        'Content-Type': 'application/json',
        'Content-Length': Buffer.byteLength(body),
        'X-Victim': NAME,
      });
      response.end(body);
    });
    return new Promise((_, reject) => {
      server.on('error', reject);
      server.listen(Number(port), '0.0.0.0', () => console.log(`listening ${port}`));
    });
  },

  get(url) {
    return new Promise((resolve, reject) => {
      const request = http.get(url, { agent: new http.Agent() }, response => {
        console.log(response.statusCode);
        response.on('end', resolve).on('error', reject).pipe(process.stdout);
      });
      request.on('error', reject);
    });
  },

  async resolve(name) {
    for (const { address } of await dns.lookup(name, { all: true, verbatim: true })) console.log(address);
  },

  connect(host, port) {
    return new Promise((resolve, reject) => {
      const socket = net.connect(Number(port), host, () => {
        const { localAddress, localPort, remoteAddress, remotePort } = socket;
        console.log(`ok ${show(localAddress, localPort)} -> ${show(remoteAddress, remotePort)}`);
        socket.destroy();
        resolve();
      });
      socket.on('error', reject);
    });
  },

  async file(path) {
    process.stdout.write(await fs.promises.readFile(path));
  },

  async ls(dir) {
    for (const name of (await fs.promises.readdir(dir)).sort()) console.log(name);
  },

  async stat(path) {
    const stat = await fs.promises.stat(path);
    const type = stat.isFile() ? 'file' : stat.isDirectory() ? 'dir' : stat.isSymbolicLink() ? 'link' : 'other';
    console.log(`${stat.size} ${(stat.mode & 0o7777).toString(8).padStart(4, '0')} ${type}`);
  },
};

const [command, ...args] = process.argv.slice(2);
if (!Object.hasOwn(commands, command ?? '') || args.length === 0) {
  console.error(`usage: victim ${Object.keys(commands).join(' | ')}`);
  process.exitCode = 2;
} else {
  Promise.resolve(commands[command](...args)).catch(error => {
    const code = error.code ?? error.message;
    console.log(`error ${code === 'ENOTFOUND' ? 'NXDOMAIN' : code}`);
    process.exitCode = 1;
  });
}
