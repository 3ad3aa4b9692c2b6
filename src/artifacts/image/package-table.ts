/**
 * Packages that the host needs, each with its reason and a check of its function. Names are those of Debian 12 and 13
 * and Ubuntu 22.04 and later; if they differ, the first name that apt knows is used.
 */

export type PackageCheck =
  /** A program that starts with these arguments and exits with 0. */
  | { readonly kind: 'runs'; readonly program: string; readonly args: readonly string[] }
  /** A program in PATH or the system directories, executable. */
  | { readonly kind: 'program'; readonly program: string }
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'kernel-source' };

export interface HostPackage {
  /** Name for apt; in the table the preferred name. */
  readonly name: string;
  /** Other names of the package, by preference. */
  readonly alternatives?: readonly string[];
  readonly reason: string;
  readonly check: PackageCheck;
  /** Needed to run a sandbox; all others are needed only for builds. */
  readonly atRun?: true;
  readonly onlyFor?: 'ordinary-user' | 'root';
  /** Sandboxes run without it, and not every release has it: set-up installs it if apt can. */
  readonly isOptional?: true;
}

const program = (name: string): PackageCheck => ({ kind: 'program', program: name });
const runs = (name: string, ...args: string[]): PackageCheck => ({ kind: 'runs', program: name, args });
const file = (path: string): PackageCheck => ({ kind: 'file', path });

/** Packages that every set-up needs. Compiling needs more: `neededPackages` (`prepared.ts`). */
export const HOST_PACKAGES: readonly HostPackage[] = [
  { name: 'qemu-system-x86', reason: 'runs the microVMs', check: runs('qemu-system-x86_64', '--version'), atRun: true },
  { name: 'bubblewrap', reason: 'jails the microVMs’ VMM', check: runs('bwrap', '--version'), atRun: true },
  {
    name: 'mmdebstrap',
    reason: 'installs the guest’s Debian into the golden image',
    check: runs('mmdebstrap', '--version'),
  },
  {
    name: 'debian-archive-keyring',
    reason: 'verifies the guest’s Debian packages',
    check: file('/usr/share/keyrings/debian-archive-keyring.gpg'),
  },
  {
    name: 'uidmap',
    reason: 'lets an ordinary user build the golden image',
    check: program('newuidmap'),
    onlyFor: 'ordinary-user',
  },
  { name: 'erofs-utils', reason: 'packs the golden image', check: program('mkfs.erofs') },
  { name: 'e2fsprogs', reason: 'formats the sandbox’s own disk', check: program('mkfs.ext4'), atRun: true },
  { name: 'python3', reason: 'fetches Python packages', check: runs('python3', '--version') },
  {
    name: 'python3-pip',
    reason: 'fetches the guest’s Python packages and the default model',
    check: runs('python3', '-m', 'pip', '--version'),
  },
  {
    name: 'nftables',
    reason: 'filters packets of sandboxes’ networks',
    check: program('nft'),
    onlyFor: 'root',
    isOptional: true,
  },
  {
    name: 'libbpf1',
    reason: 'loads the probes of the host’s kernel',
    check: file('/usr/lib/x86_64-linux-gnu/libbpf.so.1'),
    onlyFor: 'root',
    isOptional: true,
  },
];

const GCC: HostPackage = {
  name: 'gcc',
  reason: 'compiles programs of the guest, of proofs and of tests',
  check: runs('gcc', '--version'),
};
const STATIC_LIBC: HostPackage = {
  name: 'libc6-dev',
  reason: 'static C library for these programs',
  check: file('/usr/lib/x86_64-linux-gnu/libc.a'),
};

/**
 * Packages that compile the guest's init, and programs of `prove` and `bench`. Set-up needs them only for an init other
 * than the shipped one.
 */
export const COMPILER_PACKAGES: readonly HostPackage[] = [GCC, STATIC_LIBC];

const KERNEL_TOOLS: readonly HostPackage[] = [
  ...COMPILER_PACKAGES,
  { name: 'binutils', reason: 'strips the guest kernel', check: program('strip') },
  { name: 'make', reason: 'builds the guest kernel', check: program('make') },
  { name: 'flex', reason: 'builds the guest kernel’s configuration tool', check: program('flex') },
  { name: 'bison', reason: 'builds the guest kernel’s configuration tool', check: program('bison') },
  { name: 'bc', reason: 'computes constants of the guest kernel', check: program('bc') },
  { name: 'libelf-dev', reason: 'builds the guest kernel’s object checker', check: file('/usr/include/libelf.h') },
  { name: 'xz-utils', reason: 'unpacks the kernel source', check: program('xz') },
];

export const KERNEL_PACKAGES: readonly HostPackage[] = [
  ...KERNEL_TOOLS,
  {
    name: 'linux-source-6.12',
    alternatives: ['linux-source-6.1', 'linux-source'],
    reason: 'source of the guest kernel',
    check: { kind: 'kernel-source' },
  },
  { name: 'bzip2', reason: 'unpacks the kernel source (Ubuntu)', check: program('bzip2') },
];

/** Packages that compile the tools of the VM that builds images (`builder-tools.ts`). */
export const BUILDER_PACKAGES: readonly HostPackage[] = [
  ...COMPILER_PACKAGES,
  {
    name: 'libzstd-dev',
    reason: 'unpacks zstd layers in the VM that builds images',
    check: file('/usr/lib/x86_64-linux-gnu/libzstd.a'),
  },
  { name: 'patch', reason: 'patches the source of erofs-utils', check: runs('patch', '--version') },
];

/** Packages for pulled images, installed when the first one is pulled. A build needs only those above. */
export const ENVIRONMENT_PACKAGES: readonly HostPackage[] = [
  { name: 'skopeo', reason: 'fetches images from registries', check: runs('skopeo', '--version') },
  ...BUILDER_PACKAGES,
];

/** Packages that only tests need: independent programs that inspect and talk to the product. */
export const TEST_PACKAGES: readonly HostPackage[] = [
  // A run of all tests builds the guest kernel again, and fetches its source itself.
  ...KERNEL_TOOLS,
  { name: 'iproute2', reason: 'reads back network configuration', check: program('ip') },
  { name: 'util-linux', reason: 'makes network namespaces', check: program('unshare') },
  { name: 'openssl', reason: 'speaks TLS to the gateway', check: runs('openssl', 'version') },
  { name: 'curl', reason: 'speaks HTTP to the gateway', check: runs('curl', '--version') },
  { name: 'strace', reason: 'shows system calls', check: runs('strace', '-V') },
  { name: 'clang', reason: 'compiles BPF programs', check: runs('clang', '--version') },
  { name: 'skopeo', reason: 'fetches images from registries', check: runs('skopeo', '--version') },
  { name: 'busybox-static', reason: 'is the only program of small images', check: runs('busybox', 'true') },
  { name: 'musl-tools', reason: 'compiles the programs of images without glibc', check: runs('musl-gcc', '--version') },
  { name: 'libbpf-dev', reason: 'has the headers of BPF programs', check: file('/usr/include/bpf/bpf_helpers.h') },
];

/** Packages that a sandbox needs once kernel, image and model are built. */
export const RUN_PACKAGES = HOST_PACKAGES.filter((one) => one.atRun === true);
