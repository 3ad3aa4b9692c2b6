/**
 * Parses references to images, as people write them. Pure.
 *
 *     python:3.13-slim                     a repository and a tag of a registry; no tag: latest
 *     example.com:5000/a/b@sha256:…        the same, pinned by digest
 *     docker-archive:FILE                  a file that `docker save` wrote
 *     oci:DIRECTORY[:TAG]                  an OCI layout
 *     docker-daemon:NAME:TAG               an image of the local Docker daemon
 *     sha256:…                             a local image, by its whole digest
 *
 * The grammar of names is that of distribution/reference: no part of a reference can become an option or another
 * transport.
 */
import { resolve } from 'node:path';
import { OciError } from './errors.ts';

/** `stored`: a local image, never fetched. */
export type Transport = 'docker' | 'docker-archive' | 'oci' | 'docker-daemon' | 'stored';

const BEGINS_WITH_TRANSPORT = /^(docker|docker-archive|oci|docker-daemon):/;

export interface Reference {
  readonly transport: Transport;
  /** As shown and stored: complete, with its tag; a path is absolute. */
  readonly text: string;
  /** For skopeo; empty if it can't fetch this. */
  readonly source: string;
  /** For skopeo, without tag and digest, so that `@DIGEST` can be appended; `null` except for registries. */
  readonly repository: string | null;
  /** `sha256:…`, the only content that the reference accepts; `null` if not pinned. */
  readonly digest: string | null;
}

const TEXT_CHARACTERS_MAX = 1024;
const NAME_CHARACTERS_MAX = 255;

const DOMAIN =
  /^(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$/;
const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
export const DIGEST = /^sha256:[0-9a-f]{64}$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern refuses them
const PATH = /^[^\u0000-\u001f\u007f:]+$/;

/** `HOST` or `HOST:PORT`; null: not in a registry. */
export function registryOf({ repository }: Reference): string | null {
  return repository === null ? null : (/^docker:\/\/([^/]+)\//.exec(repository)?.[1] ?? null);
}

/** @param cwd directory of relative paths @throws OciError `reference_invalid` */
export function parseReference(text: string, cwd: string): Reference {
  if (text === '' || text.length > TEXT_CHARACTERS_MAX) throw invalid(text, 'it is empty or long');
  if (DIGEST.test(text)) {
    return { transport: 'stored', text, source: '', repository: null, digest: text };
  }
  const [, transport = '', rest = ''] = /^([a-z-]+):(.*)$/s.exec(text) ?? [];
  switch (transport) {
    case 'docker-archive':
      return ofPath(text, transport, rest, cwd);
    case 'oci':
      return ofLayout(text, rest, cwd);
    case 'docker-daemon':
      return ofDaemon(text, rest);
    case 'docker':
      if (rest.startsWith('//')) return ofRegistry(text, rest.slice(2));
  }
  return ofRegistry(text, text);
}

function ofPath(text: string, transport: Transport, path: string, cwd: string): Reference {
  if (!PATH.test(path)) throw invalid(text, 'its path is empty, or has a colon');
  const source = `${transport}:${resolve(cwd, path)}`;
  if (!PATH.test(source.slice(transport.length + 1)))
    throw invalid(text, 'the path of the working directory has a colon');
  return { transport, text: source, source, repository: null, digest: null };
}

function ofLayout(text: string, rest: string, cwd: string): Reference {
  const [path = '', tag, ...more] = rest.split(':');
  if (more.length > 0 || (tag !== undefined && !TAG.test(tag))) throw invalid(text, 'its tag is not valid');
  const layout = ofPath(text, 'oci', path, cwd);
  if (tag === undefined) return layout;
  const source = `${layout.source}:${tag}`;
  return { ...layout, text: source, source };
}

function ofDaemon(text: string, rest: string): Reference {
  const { name, tag, digest } = partsOf(text, rest);
  if (digest !== null) throw invalid(text, 'the Docker daemon has no images by digest');
  const source = `docker-daemon:${name}:${tag ?? 'latest'}`;
  return { transport: 'docker-daemon', text: source, source, repository: null, digest: null };
}

function ofRegistry(text: string, rest: string): Reference {
  const { name, tag, digest } = partsOf(text, rest);
  const suffix = digest === null ? `:${tag ?? 'latest'}` : `@${digest}`;
  const shownTag = digest !== null && tag !== null ? `:${tag}` : '';
  const plain = `${name}${shownTag}${suffix}`;
  return {
    transport: 'docker',
    // A repository or host `oci` is not the transport `oci:`, nor a repository `sha256` a digest.
    text: BEGINS_WITH_TRANSPORT.test(plain) || DIGEST.test(plain) ? `docker://${plain}` : plain,
    source: `docker://${name}${suffix}`,
    repository: `docker://${name}`,
    digest,
  };
}

function partsOf(
  text: string,
  rest: string,
): { readonly name: string; readonly tag: string | null; readonly digest: string | null } {
  const [head = '', digest = null, ...more] = rest.split('@');
  if (more.length > 0 || (digest !== null && !DIGEST.test(digest)))
    throw invalid(text, 'its digest is not sha256: and 64 hexadecimal digits');
  const colon = head.lastIndexOf(':');
  const hasTag = colon > head.lastIndexOf('/');
  const name = hasTag ? head.slice(0, colon) : head;
  const tag = hasTag ? head.slice(colon + 1) : null;
  if (tag !== null && !TAG.test(tag)) throw invalid(text, 'its tag is not valid');
  checkName(text, name);
  return { name, tag, digest };
}

function checkName(text: string, name: string): void {
  const parts = name.split('/');
  const [first = ''] = parts;
  // Same rule as Docker's.
  const hasDomain = parts.length > 1 && (/[.:[]/.test(first) || first === 'localhost' || /[A-Z]/.test(first));
  const path = hasDomain ? parts.slice(1) : parts;
  if (name.length > NAME_CHARACTERS_MAX) throw invalid(text, 'its name is too long');
  if (hasDomain && !DOMAIN.test(first)) throw invalid(text, `"${first}" is not a registry`);
  const wrong = path.find((part) => !COMPONENT.test(part));
  if (wrong === undefined) return;
  const why = /[A-Z]/.test(wrong) ? 'repository names are in lower case' : 'its name is not valid';
  throw invalid(text, why);
}

function invalid(text: string, cause: string): OciError {
  return new OciError('reference_invalid', `invalid image "${text.slice(0, 200)}"`, {
    cause,
    remedy: 'Use NAME[:TAG], NAME@sha256:DIGEST, docker-archive:FILE, oci:DIRECTORY[:TAG] or docker-daemon:NAME:TAG.',
  });
}
