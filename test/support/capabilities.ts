/** Capabilities of a machine that some tests need beyond set-up, and their handling by NEUROVISOR_REQUIRE. */

export const CAPABILITIES = [
  'root',
  'tcg',
  'model',
  'firecracker',
  'firecracker-linux',
  'kvm',
  'nested',
  'cgroup',
  'cgroup-v1',
  'disk-limits',
  'seccomp-records',
  'atheris',
  's3-server',
  'generators',
  'model-servers',
  'python-index',
  'debian-archive',
  'systemd',
  'docker-registry',
  'musl',
  'open-files',
  'prebuilt-tools',
] as const;
export type Capability = (typeof CAPABILITIES)[number];

/** The capabilities that must be present on this machine. */
export function requiredCapabilities(env: Readonly<Record<string, string | undefined>>): readonly Capability[] {
  const names = (env['NEUROVISOR_REQUIRE'] ?? '').split(',').filter((name) => name !== '');
  return names.map((name) => {
    const known = CAPABILITIES.find((capability) => capability === name);
    if (known !== undefined) return known;
    throw new Error(`unknown capability "${name}" in NEUROVISOR_REQUIRE: use ${CAPABILITIES.join(', ')}`);
  });
}
