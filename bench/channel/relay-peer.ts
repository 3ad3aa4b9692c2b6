/**
 * One end of the relay benchmark, in its own process: `service SOCKET` reads what guests send, `guests SOCKET` floods a
 * listener from several connections. Each takes commands of one line and answers each with one line: `count` (bytes
 * received since the last), `start`, `stop`. Ends with its stdin.
 */
import { connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

const CONNECTIONS = 8;
const PIECE = Buffer.alloc(64 * 1024, 'x');
const [role, path = ''] = process.argv.slice(2);
const answer = (line: string): boolean => process.stdout.write(`${line}\n`);
const commands: Record<string, () => void> = role === 'service' ? service() : guests();

createInterface({ input: process.stdin })
  .on('line', (line) => commands[line]?.())
  .once('close', () => process.exit(0));

function service(): Record<string, () => void> {
  let received = 0;
  const server = createServer((socket) => {
    socket.on('data', (bytes: Buffer) => {
      received += bytes.length;
    });
    socket.on('error', () => socket.destroy());
  });
  server.listen(path, () => answer('ready'));
  return {
    count() {
      answer(String(received));
      received = 0;
    },
  };
}

function guests(): Record<string, () => void> {
  let sockets: Socket[] = [];
  answer('ready');
  return {
    start() {
      sockets = Array.from({ length: CONNECTIONS }, flood);
      answer('started');
    },
    stop() {
      for (const socket of sockets) socket.destroy();
      answer('stopped');
    },
  };
}

function flood(): Socket {
  const socket = connect(path);
  const send = (): void => {
    while (socket.write(PIECE));
  };
  socket.on('drain', send).on('error', () => socket.destroy());
  send();
  return socket;
}
