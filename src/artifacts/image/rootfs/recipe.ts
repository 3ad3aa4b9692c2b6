/** Data of the golden image: packages, removed paths, fixed names. */

/** The guest is Debian 12 on any host: Python 3.11 and the wheels of the lock file fit it. */
export const GUEST_CODENAME = 'bookworm';
export const GUEST_PYTHON = '3.11';
export const DEBIAN_KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/** Packages beyond Debian's essential ones, with the reason for each. */
export const GUEST_PACKAGES: Readonly<Record<string, string>> = {
  python3: 'runs the agent and the user’s programs',
  'python-is-python3': 'runs programs that call `python`',
};

/**
 * Does not wait for the disk: an image or a sandbox that its host's crash interrupts is lost anyway. Excludes
 * documentation, but not licenses.
 */
export const DPKG_OPTIONS: readonly string[] = [
  'force-unsafe-io',
  'path-exclude=/usr/share/doc/*',
  'path-include=/usr/share/doc/*/copyright',
  'path-exclude=/usr/share/man/*',
  'path-exclude=/usr/share/info/*',
  'path-exclude=/usr/share/locale/*',
  'path-exclude=/usr/share/lintian/*',
  'path-exclude=/usr/share/bug/*',
];

/** Directory in which Debian's Python finds packages from elsewhere. */
export const SITE_PACKAGES = `usr/local/lib/python${GUEST_PYTHON}/dist-packages`;

/** Directories below the root that are compiled to bytecode. */
export const PYTHON_TREES: readonly string[] = [
  `usr/lib/python${GUEST_PYTHON}`,
  'usr/lib/python3/dist-packages',
  SITE_PACKAGES,
];

/** In the image during its build: apt's preferred versions, and its records of the installed ones. */
export const APT_PREFERENCES = 'etc/apt/preferences.d/neurovisor';
export const APT_RECORDS = 'var/lib/neurovisor-packages';

/** Removed before packing: traces of the build, differences between builds, the host's names. */
export const REMOVED_PATHS: readonly string[] = [
  APT_PREFERENCES,
  APT_RECORDS,
  'etc/apt/sources.list',
  'etc/apt/sources.list.d',
  'etc/hostname',
  'etc/hosts',
  'etc/machine-id',
  'etc/resolv.conf',
  'var/cache/apt',
  'var/cache/debconf',
  'var/cache/ldconfig/aux-cache',
  'var/lib/apt/lists',
  'var/lib/dpkg/available-old',
  'var/lib/dpkg/diversions-old',
  'var/lib/dpkg/statoverride-old',
  'var/lib/dpkg/status-old',
  'var/log',
  // pip writes the path of the host's interpreter into these.
  `${SITE_PACKAGES}/bin`,
  // Makes pip refuse to install anything, but the image's Python packages are not Debian's.
  `usr/lib/python${GUEST_PYTHON}/EXTERNALLY-MANAGED`,
];

/** Removed directories that programs do not recreate. */
export const EMPTY_DIRS: readonly string[] = ['var/log', 'var/cache/apt/archives/partial', 'var/lib/apt/lists/partial'];

/** Wheels with debug sections (26 MB in all), which only a debugger of their libraries would read. */
export const STRIPPED_PACKAGES: readonly string[] = ['regex', 'xxhash', 'yaml', 'zstandard'];

export const USER = { name: 'user', uid: 1000, home: '/home/user' } as const;

/** Debian's own names: the host's mirrors stay on the host. The package gateway knows them, too. */
const APT_SOURCES = `Types: deb
URIs: http://deb.debian.org/debian
Suites: ${GUEST_CODENAME} ${GUEST_CODENAME}-updates
Components: main
Signed-By: ${DEBIAN_KEYRING}

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: ${GUEST_CODENAME}-security
Components: main
Signed-By: ${DEBIAN_KEYRING}
`;

/** Files written into the image: path → content. */
export const ETC_FILES: Readonly<Record<string, string>> = {
  'etc/resolv.conf': '',
  'etc/fstab': '',
  'etc/apt/sources.list.d/debian.sources': APT_SOURCES,
};

const PIP_SCRIPT = `#!/usr/bin/python3
import sys
from pip._internal.cli.main import main
sys.exit(main())
`;

/** Programs written into the image: path → script. */
export const SCRIPTS: Readonly<Record<string, string>> = {
  'usr/local/bin/pip': PIP_SCRIPT,
  'usr/local/bin/pip3': PIP_SCRIPT,
};

/**
 * Links in the image: path → target. Files that each hello writes are in memory: through overlay and ext4 they would
 * cost a clone 35 ms in software emulation.
 */
export const ETC_LINKS: Readonly<Record<string, string>> = {
  'etc/hostname': '/run/neurovisor/hostname',
  'etc/hosts': '/run/neurovisor/hosts',
  'etc/machine-id': '/run/neurovisor/machine-id',
  // Written by the agent if the package gateway serves crates; cargo ignores a missing file.
  '.cargo/config.toml': '/run/neurovisor/cargo.toml',
};

/** Links that replace files of the base, so that changing them does not rebuild it. Also in memory. */
export const RUN_LINKS: Readonly<Record<string, string>> = { 'etc/resolv.conf': '/run/neurovisor/resolv.conf' };

/** Appended lines: path → line. The account has no password, since there is no login. */
export const ETC_LINES: Readonly<Record<string, string>> = {
  'etc/passwd': `${USER.name}:x:${USER.uid}:${USER.uid}::${USER.home}:/bin/bash\n`,
  'etc/group': `${USER.name}:x:${USER.uid}:\n`,
  'etc/shadow': `${USER.name}:*:19000:0:99999:7:::\n`,
};

/** Timestamp of every file in the image: 2026-01-01, in seconds. */
export const SOURCE_DATE_EPOCH = 1_767_225_600;
export const IMAGE_UUID = '6e657572-6f76-4973-8f72-000000000001';
export const ADDED_DIR = 'opt/neurovisor';
export const AGENT_DIR = `${ADDED_DIR}/agent`;
export const INIT_PATH = 'sbin/neurovisor-init';
