/**
 * The bytes of a stream. Leaving the loop destroys the stream, and with it what fills it.
 * @throws the error of `tooLarge` if there are more than `bytesMax`
 */
export async function collect(
  stream: AsyncIterable<Uint8Array>,
  bytesMax: number,
  tooLarge: () => Error,
): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of stream) {
    bytes += part.length;
    if (bytes > bytesMax) throw tooLarge();
    parts.push(part);
  }
  return Buffer.concat(parts);
}
