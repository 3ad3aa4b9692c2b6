/**
 * A collector that accepts exactly what OpenTelemetry's own protobuf definitions allow: the descriptors in
 * test/fixtures/otlp-trace.binpb come from the package opentelemetry-proto 1.45.2 (Apache-2.0).
 */
import { readFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createFileRegistry, fromBinary, fromJson, toBinary, toJson } from '@bufbuild/protobuf';
import { type DescriptorProto, FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';

const set = fromBinary(
  FileDescriptorSetSchema,
  readFileSync(join(import.meta.dirname, '../fixtures/otlp-trace.binpb')),
);
for (const file of set.file) nameFields(file.messageType);
const registry = createFileRegistry(set);
const SERVICE = 'opentelemetry.proto.collector.trace.v1';
const message = registry.getMessage(`${SERVICE}.ExportTraceServiceRequest`);

export interface CollectedSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string;
  readonly name: string;
  readonly kind: string;
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly status: string;
}

export interface Collector extends AsyncDisposable {
  /** In the form of OTEL_EXPORTER_OTLP_ENDPOINT. */
  readonly url: string;
  readonly spans: CollectedSpan[];
  readonly headers: IncomingHttpHeaders[];
  /** Status of its answers. Default 200. */
  status: number;
}

export async function startCollector(): Promise<Collector> {
  const spans: CollectedSpan[] = [];
  const headers: IncomingHttpHeaders[] = [];
  const server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      headers.push(request.headers);
      const isRight = request.method === 'POST' && request.url === '/v1/traces';
      if (isRight && collector.status === 200) spans.push(...decode(Buffer.concat(parts).toString()));
      response.writeHead(isRight ? collector.status : 404, { 'content-type': 'application/json' });
      response.end('{}');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const collector: Collector = {
    spans,
    headers,
    status: 200,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
  return collector;
}

/** @throws if the official definitions know no such field, or no such value of it */
export function decode(text: string): readonly CollectedSpan[] {
  if (message === undefined) throw new Error('the descriptors have no such message');
  const json = asProtobufJson(JSON.parse(text)) as never;
  const decoded = fromJson(message, json, { registry, ignoreUnknownFields: false });
  const request = toJson(message, decoded, { registry, alwaysEmitImplicit: true }) as unknown;
  const { resourceSpans } = request as { resourceSpans: { scopeSpans: { spans: JsonSpan[] }[] }[] };
  return resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans.map(collected)));
}

/** The package omits JSON names that equal protobuf's default. */
function nameFields(messages: readonly DescriptorProto[]): void {
  for (const { field, nestedType } of messages) {
    for (const one of field) {
      one.jsonName ||= one.name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
    }
    nameFields(nestedType);
  }
}

/** A request in protobuf, as an SDK writes it. @param json in OTLP's JSON encoding */
export function encode(json: object): Buffer {
  if (message === undefined) throw new Error('the descriptors have no such message');
  return Buffer.from(toBinary(message, fromJson(message, asProtobufJson(json) as never)));
}

/** Number of rejected spans, by the official definition of the answer. */
export function rejectedOf(answer: Buffer): number {
  const response = registry.getMessage(`${SERVICE}.ExportTraceServiceResponse`);
  if (response === undefined) throw new Error('the descriptors have no such message');
  const json = toJson(response, fromBinary(response, answer)) as { partialSuccess?: { rejectedSpans: string } };
  return Number(json.partialSuccess?.rejectedSpans ?? 0);
}

interface JsonSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string;
  readonly name: string;
  readonly kind: string;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: readonly { key: string; value: Record<string, unknown> }[];
  readonly status?: { readonly code: string };
}

function collected(span: JsonSpan): CollectedSpan {
  const { name, kind, startTimeUnixNano, endTimeUnixNano, attributes, status } = span;
  const hex = (base64: string): string => Buffer.from(base64, 'base64').toString('hex');
  return {
    name,
    kind,
    status: status?.code ?? 'STATUS_CODE_UNSET',
    ...{ traceId: hex(span.traceId), spanId: hex(span.spanId), parentSpanId: hex(span.parentSpanId) },
    startNs: BigInt(startTimeUnixNano),
    endNs: BigInt(endTimeUnixNano),
    attributes: Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]])),
  };
}

/** OTLP writes ids as hex digits, where protobuf's own JSON has base64; everything else is the same. */
function asProtobufJson(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(asProtobufJson);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => {
      if (!/^(trace|span|parentSpan)Id$/.test(key)) return [key, asProtobufJson(one)];
      if (!/^([0-9a-f]{32}|[0-9a-f]{16})$/.test(String(one))) throw new Error(`${key}: ${one}`);
      return [key, Buffer.from(String(one), 'hex').toString('base64')];
    }),
  );
}
