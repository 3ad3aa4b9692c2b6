import { describe, expect, it } from 'vitest';
import { guestMirrorLines, parseDeb822, parseOneLine, parseOsRelease } from './apt-sources.ts';

const KEYRING = '/k.gpg';
const DEB822 = `Types: deb
# an archive snapshot
URIs: http://mirror.test/debian
Suites: trixie trixie-updates
 trixie-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.test/debian-security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://mirror.test/sources
Suites: trixie
Components: main

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: trixie
Components: main

Types: deb
URIs: http://vendor.test/debian
Suites: trixie
Components: main
Signed-By: /etc/apt/keyrings/vendor.gpg
`;

describe('guestMirrorLines', () => {
  it('maps the host’s release to the guest’s, for Debian’s own entries only', () => {
    expect(guestMirrorLines(parseDeb822(DEB822), 'trixie', 'bookworm', KEYRING)).toEqual([
      'deb [signed-by=/k.gpg] http://mirror.test/debian bookworm main',
      'deb [signed-by=/k.gpg] http://mirror.test/debian bookworm-updates main',
      'deb [signed-by=/k.gpg] http://mirror.test/debian-security bookworm-security main',
    ]);
  });
  it('reads one-line entries with and without options', () => {
    const list = `# comment
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.test/debian bookworm main contrib # x
deb http://b.test/debian-security bookworm-security main
deb-src http://a.test/debian bookworm main
deb http://c.test/apt stable main
`;
    expect(guestMirrorLines(parseOneLine(list), 'bookworm', 'bookworm', KEYRING)).toEqual([
      'deb [signed-by=/k.gpg] http://a.test/debian bookworm main',
      'deb [signed-by=/k.gpg] http://b.test/debian-security bookworm-security main',
    ]);
  });
  it('returns nothing if there are only partial suites', () => {
    const sources = parseOneLine('deb http://a.test/debian-security bookworm-security main\n');
    expect(guestMirrorLines(sources, 'bookworm', 'bookworm', KEYRING)).toEqual([]);
  });
});

describe('parseOsRelease', () => {
  it('reads quoted and plain values', () => {
    const values = parseOsRelease('ID=debian\nVERSION_CODENAME="bookworm"\nnonsense\n');
    expect(values.get('ID')).toBe('debian');
    expect(values.get('VERSION_CODENAME')).toBe('bookworm');
  });
});
