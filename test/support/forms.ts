/** `multipart/form-data` byte by byte, and as parsed by another parser. */

export interface FormPart {
  readonly name: string;
  readonly content: string | Buffer;
  /** Present for a file. */
  readonly fileName?: string;
  readonly type?: string;
}

export function formOf(parts: readonly FormPart[], boundary = 'B'): Buffer {
  const pieces = parts.flatMap(({ name, content, fileName, type }) => {
    const file = fileName === undefined ? '' : `; filename="${fileName}"`;
    const own = type === undefined ? '' : `\r\nContent-Type: ${type}`;
    const head = `--${boundary}\r\nContent-Disposition: form-data; name="${name}"${file}${own}\r\n\r\n`;
    return [Buffer.from(head), Buffer.from(content), Buffer.from('\r\n')];
  });
  return Buffer.concat([...pieces, Buffer.from(`--${boundary}--\r\n`)]);
}

export const formType = (boundary = 'B'): string => `multipart/form-data; boundary=${boundary}`;

export interface ReadPart {
  readonly name: string;
  readonly text?: string;
  readonly fileName?: string;
  readonly type?: string;
  /** Hexadecimal. */
  readonly bytes?: string;
}

/** Parsed by Node's own parser. @throws if it is malformed */
export async function partsOf(bytes: Uint8Array, contentType: string): Promise<readonly ReadPart[]> {
  const headers = { 'content-type': contentType };
  const form = await new Response(Buffer.from(bytes), { headers }).formData();
  const entries: Iterable<[string, string | File]> = form;
  return await Promise.all(
    [...entries].map(async ([name, value]) => {
      if (typeof value === 'string') return { name, text: value };
      const hex = Buffer.from(await value.arrayBuffer()).toString('hex');
      return { name, fileName: value.name, type: value.type, bytes: hex };
    }),
  );
}
