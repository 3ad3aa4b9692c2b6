/**
 * Presents a model of Ollama's layout as skopeo accepts it. skopeo refuses the types of its blobs ("unsupported docker
 * v2s2 media type"), so a port of loopback serves it an OCI manifest with the same digests and sizes, and redirects it
 * to the registry for each blob, as registries do themselves. skopeo checks the digests, which came with the manifest
 * from the registry; the certificate of a blob's server is not checked. Its credentials are not sent to redirect
 * targets, so this works only with registries that require none, like Ollama's.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { digestOf } from './documents.ts';
import { OciError } from './errors.ts';
import type { ModelManifest } from './model-manifest.ts';
import type { Reference } from './reference.ts';

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG = 'application/vnd.oci.empty.v1+json';
const BLOB = 'application/octet-stream';

export interface ModelView extends AsyncDisposable {
  /** For skopeo. */
  readonly source: string;
}

/** @param reference in a registry */
export async function openModelView(reference: Reference, { blobs }: ModelManifest): Promise<ModelView> {
  const [config, ...layers] = blobs.map(({ digest, bytes: size }, index) => ({
    mediaType: index === 0 ? CONFIG : BLOB,
    digest,
    size,
  }));
  const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST, config, layers }));
  const known = new Set(blobs.map(({ digest }) => digest));
  const at = blobsOf(reference);
  const server = createServer(({ url = '' }, response) => {
    const [, kind, digest = ''] = /^\/v2\/model\/(manifests|blobs)\/(.+)$/.exec(url) ?? [];
    if (kind === 'manifests') {
      response.writeHead(200, { 'content-type': MANIFEST, 'content-length': manifest.length });
      response.end(manifest);
    } else if (kind === 'blobs' && known.has(digest)) {
      response.writeHead(307, { location: `${at}${digest}` }).end();
    } else {
      response.writeHead(url === '/v2/' ? 200 : 404).end('{}');
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    source: `docker://127.0.0.1:${port}/model@${digestOf(manifest)}`,
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

/** The base address of a registry's blobs; the digest follows. */
function blobsOf({ repository, text }: Reference): string {
  const [host = '', ...path] = (repository ?? '').replace('docker://', '').split('/');
  if (path.length === 0 || !/[.:]|^localhost$/.test(host) || host === 'docker.io') {
    throw new OciError('image_unsupported', `${text} has Ollama's layout in Docker's registry`, {
      remedy: 'Name the registry, for example registry.ollama.ai/library/NAME.',
    });
  }
  // As in Docker, a registry of this machine needs no certificate.
  const isHere = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/.test(host);
  return `http${isHere ? '' : 's'}://${host}/v2/${path.join('/')}/blobs/`;
}
