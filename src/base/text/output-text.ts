/** Program output in JSON: text if it is UTF-8, otherwise base64, so that no byte is lost. */
import { isUtf8 } from 'node:buffer';

export type OutputEncoding = 'utf8' | 'base64';

export interface OutputText {
  readonly text: string;
  readonly encoding: OutputEncoding;
}

/** Length of the longest UTF-8 character. */
const CHARACTER_BYTES_MAX = 4;

/** @param isCut the output may end within a character, which is dropped then */
export function outputText(bytes: Buffer, isCut: boolean): OutputText {
  if (isUtf8(bytes)) return { text: bytes.toString('utf8'), encoding: 'utf8' };
  if (isCut) {
    for (let cut = 1; cut < CHARACTER_BYTES_MAX && cut <= bytes.length; cut += 1) {
      const whole = bytes.subarray(0, -cut);
      if (isUtf8(whole) && isUnfinished(bytes.subarray(-cut))) {
        return { text: whole.toString('utf8'), encoding: 'utf8' };
      }
    }
  }
  return { text: bytes.toString('base64'), encoding: 'base64' };
}

/** Whether the bytes are the beginning of one UTF-8 character. */
function isUnfinished(bytes: Buffer): boolean {
  const [lead = 0, ...rest] = bytes;
  const length = lead > 0xf4 ? 0 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 0;
  return bytes.length < length && rest.every((byte) => (byte & 0xc0) === 0x80);
}
