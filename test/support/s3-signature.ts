/**
 * Signatures of S3 requests (AWS Signature Version 4). Signs few fields on purpose: a guest can change unsigned ones
 * afterwards.
 */
import { createHash, createHmac } from 'node:crypto';

export interface S3Keys {
  readonly accessKey: string;
  readonly secretKey: string;
}

interface S3Request {
  readonly method: string;
  readonly host: string;
  readonly path: string;
}

const SCOPE = 'us-east-1/s3/aws4_request';
const ALGORITHM = 'AWS4-HMAC-SHA256';
/** Allowed over TLS. */
const PAYLOAD = 'UNSIGNED-PAYLOAD';

/** The fields of a signed request. */
export function signedFields(request: S3Request, keys: S3Keys): readonly string[] {
  const date = dateNow();
  const fields = [`host:${request.host}`, `x-amz-content-sha256:${PAYLOAD}`, `x-amz-date:${date}`];
  const names = 'host;x-amz-content-sha256;x-amz-date';
  const signature = sign(request, '', fields, names, date, keys);
  const scope = `${keys.accessKey}/${date.slice(0, 8)}/${SCOPE}`;
  const credential = `Credential=${scope}, SignedHeaders=${names}, Signature=${signature}`;
  return [...fields.slice(1), `Authorization: ${ALGORITHM} ${credential}`];
}

/** The query of a presigned URL, without its signature, and the signature. */
export function presigned(request: S3Request, keys: S3Keys): { readonly query: string; readonly signature: string } {
  const date = dateNow();
  const scope = `${keys.accessKey}/${date.slice(0, 8)}/${SCOPE}`;
  const query = [
    `X-Amz-Algorithm=${ALGORITHM}`,
    `X-Amz-Credential=${encodeURIComponent(scope)}`,
    `X-Amz-Date=${date}`,
    'X-Amz-Expires=3600',
    'X-Amz-SignedHeaders=host',
  ].join('&');
  const signature = sign(request, query, [`host:${request.host}`], 'host', date, keys);
  return { query, signature };
}

function sign(
  { method, path }: S3Request,
  query: string,
  fields: readonly string[],
  names: string,
  date: string,
  { secretKey }: S3Keys,
): string {
  const canonical = [method, path, query, ...fields, '', names, PAYLOAD].join('\n');
  const day = date.slice(0, 8);
  const hashed = createHash('sha256').update(canonical).digest('hex');
  const text = [ALGORITHM, date, `${day}/${SCOPE}`, hashed].join('\n');
  const key = [day, ...SCOPE.split('/')].reduce<string | Buffer>(hmac, `AWS4${secretKey}`);
  return hmac(key, text).toString('hex');
}

function hmac(key: string | Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}

/** `20261128T021500Z` */
function dateNow(): string {
  return new Date().toISOString().replaceAll(/[-:]|\.\d+/g, '');
}
