import { describe, expect, it } from 'vitest';
import { choosePlatform, DOCUMENT_BYTES_MAX, LAYERS_MAX, parseConfig, parseDocument } from './documents.ts';

const hex = (digit: string): string => `sha256:${digit.repeat(64)}`;
const OCI = 'application/vnd.oci.image';
const config = { mediaType: `${OCI}.config.v1+json`, digest: hex('c'), size: 10 };
const layer = (type = `${OCI}.layer.v1.tar+gzip`, digit = '1') => ({ mediaType: type, digest: hex(digit), size: 7 });
const bytesOf = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const manifest = (more: object = {}): Buffer => bytesOf({ schemaVersion: 2, config, layers: [layer()], ...more });
const index = (manifests: unknown, more: object = {}): Buffer => bytesOf({ schemaVersion: 2, manifests, ...more });
const entry = (platform: unknown, digit = '1', more: object = {}) => ({
  mediaType: `${OCI}.manifest.v1+json`,
  digest: hex(digit),
  size: 5,
  platform,
  ...more,
});
const settings = (more: object = {}, inner: object = {}): Buffer =>
  bytesOf({
    os: 'linux',
    architecture: 'amd64',
    rootfs: { type: 'layers', diff_ids: [hex('d')] },
    config: inner,
    ...more,
  });
const failing = (run: () => unknown): { code?: unknown; message?: unknown; cause?: unknown } => {
  try {
    run();
  } catch (error) {
    return error as object;
  }
  return {};
};

describe('parseDocument', () => {
  it('parseDocument: accepts every layer type that is stored, of OCI and of Docker', () => {
    const docker = 'application/vnd.docker.image.rootfs.diff.tar';
    const types = [`${OCI}.layer.v1.tar`, `${OCI}.layer.v1.tar+zstd`, docker, `${docker}.gzip`];
    expect(parseDocument(manifest({ layers: types.map((type) => layer(type)) }))).toMatchObject({
      manifest: {
        config: { digest: hex('c'), bytes: 10 },
        layers: ['none', 'zstd', 'none', 'gzip'].map((compression) => ({ compression, bytes: 7 })),
      },
    });
  });

  it.each([
    ['schema 1', bytesOf({ schemaVersion: 1, fsLayers: [] }), 'image_unsupported', /schema/],
    [
      'a foreign layer',
      manifest({ layers: [layer(`${OCI}.layer.nondistributable.v1.tar+gzip`)] }),
      'image_unsupported',
      /foreign/,
    ],
    ['an unknown layer', manifest({ layers: [layer('__proto__')] }), 'image_unsupported', /proto/],
    ['an artifact', manifest({ config: { ...config, mediaType: 'a/b' } }), 'image_unsupported', /artifact/],
    ['no layers', manifest({ layers: [] }), 'image_unsupported', /no layers/],
    [
      'many layers',
      manifest({ layers: Array.from({ length: LAYERS_MAX + 1 }, () => layer()) }),
      'image_invalid',
      /manifest/,
    ],
    [
      'another kind than its type says',
      index([], { mediaType: `${OCI}.manifest.v1+json` }),
      'image_invalid',
      /manifest/,
    ],
    ['a large size', manifest({ layers: [{ ...layer(), size: 1e300 }] }), 'image_invalid', /manifest/],
    ['a negative size', manifest({ layers: [{ ...layer(), size: -1 }] }), 'image_invalid', /manifest/],
    [
      'a digest with a path',
      manifest({ layers: [{ ...layer(), digest: 'sha256:../x' }] }),
      'image_invalid',
      /manifest/,
    ],
    ['no JSON', Buffer.from('{'), 'image_invalid', /manifest/],
    ['invalid UTF-8', Buffer.from([0x22, 0xff, 0x22]), 'image_invalid', /manifest/],
    ['a long document', Buffer.alloc(DOCUMENT_BYTES_MAX + 1, 32), 'image_too_large', /manifest/],
  ])('parseDocument: refuses %s', (_, document, code, message) => {
    expect(failing(() => parseDocument(document))).toMatchObject({ code, message: expect.stringMatching(message) });
  });
});

describe('choosePlatform', () => {
  const choose = (manifests: unknown): string => {
    const parsed = parseDocument(index(manifests));
    if (!('index' in parsed)) throw new Error('not an index');
    return choosePlatform(parsed.index, 'amd64').digest;
  };

  it('choosePlatform: chooses this machine’s, and one without a variant first', () => {
    const linux = { os: 'linux', architecture: 'amd64' };
    const others = [entry({ os: 'windows', architecture: 'amd64' }, '2'), entry(null, '3')];
    expect(choose([...others, entry({ ...linux, variant: 'v3' }, '4'), entry(linux, '5')])).toBe(hex('5'));
    expect(choose([...others, entry({ ...linux, variant: 'v3' }, '4')])).toBe(hex('4'));
  });

  it('choosePlatform: ignores attestations, and names the available platforms in the error', () => {
    const attested = { annotations: { 'vnd.docker.reference.type': 'attestation-manifest' } };
    const arm = entry({ os: 'linux', architecture: 'arm64', variant: 'v8' });
    const failure = failing(() => choose([arm, entry({ os: 'linux', architecture: 'amd64' }, '6', attested)]));
    expect(failure).toMatchObject({ code: 'image_unsupported' });
    expect(failure.message).toContain('not for linux/amd64 but for linux/arm64/v8');
  });
});

describe('parseConfig', () => {
  it('parseConfig: reads everything that an image declares about its programs', () => {
    expect(
      parseConfig(
        settings(
          {},
          {
            User: '1000:5',
            Env: ['PATH=/bin', 'A=b=c', 'EMPTY'],
            WorkingDir: '/srv',
            Entrypoint: ['/run'],
            Cmd: ['-x'],
            ExposedPorts: { '80/tcp': {}, bad: {} },
            Labels: { a: 'b' },
            Healthcheck: { Test: ['CMD-SHELL', 'true'], Interval: 3e9 },
            StopSignal: 'SIGQUIT',
          },
        ),
      ),
    ).toEqual({
      platform: { os: 'linux', architecture: 'amd64', variant: null },
      diffIds: [hex('d')],
      config: {
        user: '1000:5',
        env: { PATH: '/bin', A: 'b=c', EMPTY: '' },
        workdir: '/srv',
        entrypoint: ['/run'],
        cmd: ['-x'],
        exposedPorts: ['80/tcp'],
        labels: { a: 'b' },
        healthcheck: { kind: 'shell', command: ['true'], intervalMs: 3000, timeoutMs: null, retries: null },
        stopSignal: 'SIGQUIT',
      },
    });
  });

  it('parseConfig: accepts missing and null members', () => {
    const expected = { user: '', env: {}, workdir: '/', entrypoint: [], cmd: [], stopSignal: null };
    expect(parseConfig(settings({ config: null })).config).toMatchObject(expected);
    const nulls = { Env: null, Cmd: null, Entrypoint: null, Labels: null, Healthcheck: null };
    expect(parseConfig(settings({}, nulls)).config).toMatchObject(expected);
  });

  it.each([
    ['a relative directory', settings({}, { WorkingDir: 'x' }), 'image_invalid'],
    ['a NUL in a command', settings({}, { Cmd: ['a\0b'] }), 'image_invalid'],
    ['a variable without a name', settings({}, { Env: ['=x'] }), 'image_invalid'],
    ['many variables', settings({}, { Env: Array.from({ length: 1001 }, () => 'A=b') }), 'image_invalid'],
    [
      'long labels',
      settings({}, { Labels: Object.fromEntries(Array.from({ length: 9 }, (_, n) => [`${n}`, 'x'.repeat(40_000)])) }),
      'image_too_large',
    ],
    ['no digests', settings({ rootfs: {} }), 'image_invalid'],
  ])('parseConfig: refuses %s', (_, document, code) => {
    expect(failing(() => parseConfig(document))).toMatchObject({ code });
  });
});

it.each([
  ['an object', '{"toString": null, "valueOf": null}'],
  ['lists in each other', '['.repeat(200_000) + ']'.repeat(200_000)],
  ['a list', '["application/vnd.oci.image.manifest.v1+json"]'],
])('parseDocument: refuses a type that is %s', (_, type) => {
  const document = Buffer.from(`{"schemaVersion": 2, "mediaType": ${type}}`);
  expect(failing(() => parseDocument(document))).toMatchObject({ code: 'image_invalid' });
});
