/** Reads the first line of a stream, `CONNECT <port>\n` or its answer; the rest stays in the stream. */
import type { Socket } from 'node:net';

const LINE_FEED = 10;

/** @param done called once: with the line, or with null if there is none within `bytesMax` */
export function readLine(
  socket: Socket,
  bytesMax: number,
  done: (line: Buffer | null) => void,
): void {
  let head = Buffer.alloc(0);
  const finish = (line: Buffer | null): void => {
    socket.off('readable', look);
    socket.off('end', fail);
    socket.off('close', fail);
    done(line);
  };
  const fail = (): void => finish(null);
  const look = (): void => {
    const bytes = socket.read() as Buffer | null;
    if (bytes === null) return;
    head = Buffer.concat([head, bytes]);
    const end = head.indexOf(LINE_FEED);
    if (end >= 0 && end < bytesMax) {
      const rest = head.subarray(end + 1);
      if (rest.length > 0) socket.unshift(rest);
      finish(head.subarray(0, end + 1));
    } else if (end >= 0 || head.length >= bytesMax) fail();
  };
  socket.on('readable', look);
  socket.once('end', fail);
  socket.once('close', fail);
}
