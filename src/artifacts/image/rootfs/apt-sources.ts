/**
 * Derives mirror lines for the guest's Debian release from the host's apt configuration, since the host's network
 * reaches its own mirrors. A host of another distribution has none for Debian. Pure.
 */

export interface AptSource {
  readonly uri: string;
  readonly suite: string;
  readonly components: readonly string[];
  /** Path of the entry's keyring; undefined for apt's default. */
  readonly signedBy: string | undefined;
}

/** Parses a `.sources` file (deb822, see sources.list(5)). Skips disabled, source-only and flat entries. */
export function parseDeb822(text: string): AptSource[] {
  return text.split(/\n\s*\n/).flatMap((stanza) => {
    const fields = parseStanza(stanza);
    const words = (name: string): string[] => (fields.get(name) ?? '').split(/\s+/).filter((word) => word !== '');
    if (!words('types').includes('deb') || fields.get('enabled') === 'no') return [];
    const components = words('components');
    const signedBy = words('signed-by')[0];
    return words('uris').flatMap((uri) => words('suites').map((suite) => ({ uri, suite, components, signedBy })));
  });
}

function parseStanza(stanza: string): Map<string, string> {
  const fields = new Map<string, string>();
  let name = '';
  for (const line of stanza.split('\n')) {
    if (line.startsWith('#')) continue;
    const field = /^([A-Za-z-]+):\s*(.*)$/.exec(line);
    if (field?.[1] !== undefined) {
      name = field[1].toLowerCase();
      fields.set(name, field[2] ?? '');
    } else if (name !== '' && /^\s/.test(line)) {
      fields.set(name, `${fields.get(name) ?? ''} ${line.trim()}`);
    }
  }
  return fields;
}

/** Parses a `.list` file: lines `deb [options] URI suite component…`. */
export function parseOneLine(text: string): AptSource[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)/.exec(line);
    if (match === null) return [];
    const [, options = '', uri = '', suite = '', components = ''] = match;
    const signedBy = /signed-by=(\S+)/i.exec(options)?.[1];
    return [{ uri, suite, components: components.trim().split(/\s+/), signedBy }];
  });
}

/**
 * The host's entries of Debian itself, as lines for the guest's release; [] if the host has none. Includes `-updates`
 * and `-security`, but not `-backports`.
 */
export function guestMirrorLines(
  sources: readonly AptSource[],
  hostCodename: string,
  guestCodename: string,
  keyring: string,
): string[] {
  const lines = new Set<string>();
  for (const { uri, suite, components, signedBy } of sources) {
    const suffix = suite.slice(hostCodename.length);
    if (!suite.startsWith(hostCodename) || !['', '-updates', '-security'].includes(suffix)) continue;
    // Another publisher that uses Debian's release names has its own keyring.
    const isDebian = signedBy === undefined || signedBy.includes('debian-archive');
    if (!isDebian || !components.includes('main')) continue;
    lines.add(`deb [signed-by=${keyring}] ${uri} ${guestCodename}${suffix} main`);
  }
  return lines.size > 0 && [...lines].some((line) => line.includes(` ${guestCodename} main`)) ? [...lines] : [];
}

export function parseOsRelease(text: string): ReadonlyMap<string, string> {
  const values = new Map<string, string>();
  for (const line of text.split('\n')) {
    const match = /^([A-Z_]+)="?([^"]*)"?$/.exec(line);
    if (match?.[1] !== undefined) values.set(match[1], match[2] ?? '');
  }
  return values;
}
