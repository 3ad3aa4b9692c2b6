/**
 * The nested host (`tools/nested/`) for tests: a daemon in it runs Linux guests under KVM, and our own client drives
 * it from here.
 *
 *     vitest ── RemoteControlPlane ── unix socket ──► nested host: neurovisor serve ── KVM ──► Firecracker or QEMU
 *        └──── mock model server ◄── 10.0.2.2 ──────────────┘
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll } from 'vitest';
import { connectDaemon, type RemoteControlPlane } from '../../src/api/client/client.ts';
import { readConfig } from '../../src/base/config.ts';
import { resolveHome } from '../../src/base/home.ts';
import { searchPath } from '../../src/base/search-path.ts';
import { COMPILE_CACHE, type NestedParts } from '../../tools/nested/disks.ts';
import { nestedResults, type OpenNestedHost, openNestedHost } from '../../tools/nested/open.ts';
import { ROOT } from './cli.ts';
import { findProgram, supportedFirecracker } from './firecracker-programs.ts';
import { type MockUpstream, startMockUpstream } from './mock-upstream.ts';
import { ALLOWED, FORBIDDEN, METADATA } from './network-world.ts';
import { type Requirement, requires, requiresFullRun } from './requires.ts';

export type NestedVmm = 'firecracker' | 'qemu';

/** Path in the nested host. */
const HOME = '/data/home';
const UNIT = 'neurovisor.service';
const ROOT_USER = { user: 'root', home: HOME };
const INTERNET_MS_MAX = 600_000;
/** The checks of a start take 40 s on an idle machine, and many times that on a busy one. */
const SERVE_MS_MAX = 900_000;
const STOP_MS_MAX = 600_000;
/** First lines of a script of the nested host. */
export const NESTED_ENVIRONMENT = [
  `export HOME=/root NEUROVISOR_HOME=${HOME} NO_COLOR=1`,
  'export NEUROVISOR_FIRECRACKER=/tools/firecracker/firecracker NEUROVISOR_JAILER=/tools/firecracker/jailer',
  `export NODE_COMPILE_CACHE=${COMPILE_CACHE}`,
  'export PATH=/tools:/usr/sbin:/usr/bin:/sbin:/bin',
  'cd /data/neurovisor',
  '',
].join('\n');

/** The files of a nested host, or the reason why there is none. */
export function nestedParts(env: NodeJS.ProcessEnv): NestedParts | string {
  if (process.geteuid?.() !== 0) return 'it is not root';
  for (const program of ['mmdebstrap', 'qemu-system-x86_64'])
    if (findProgram(program, searchPath(env['PATH'])) === undefined) return `there is no ${program}`;
  const binaries = supportedFirecracker(env);
  if (typeof binaries === 'string') return binaries;
  return { checkout: ROOT, home: resolveHome(readConfig(env).home).dir, ...binaries };
}

export const requiresNested = (): Requirement<NestedParts> => requires('nested', nestedParts(process.env));

/** All cases take two hours, so each run has only the smoke cases. */
export const requiresNestedInFull = (): Requirement<NestedParts> =>
  requiresFullRun('nested', () => nestedParts(process.env));

/** Output of `test/fixtures/nested-vmm.py`. */
export interface VmmState {
  readonly pid: number;
  readonly program: string;
  /** Its control group. */
  readonly groupDir: string;
  /** Settings of the group. */
  readonly group: Readonly<Record<string, string>>;
  readonly threads: readonly Readonly<Record<string, readonly string[]>>[];
  /** Kinds of namespaces that it shares with the nested host. */
  readonly shared: readonly string[];
  readonly root: string;
}

export interface NestedDaemon {
  readonly control: RemoteControlPlane;
  stderr(): Promise<string>;
  /** Kills it with SIGKILL. Resolves once systemd has restarted it, as the unit says, and reconnects `control`. */
  crash(): Promise<void>;
  /** Ends it with SIGTERM. @returns leftovers in its run directory, and control groups of sandboxes */
  stop(): Promise<readonly string[]>;
}

interface NestedResult {
  /** VMM, or kind of cases. */
  readonly suite: string;
  readonly title: string;
  readonly passed: boolean;
}

/** The last run of one file; `tools/platforms.ts` makes docs/platforms.md from all of them. */
export interface NestedRecord {
  /** ISO 8601. */
  readonly date: string;
  /** A line for each program of the nested host. */
  readonly versions: string;
  readonly results: readonly NestedResult[];
}

const VERSIONS = `
  . /etc/os-release; echo "$PRETTY_NAME, Linux $(uname -r), $(systemctl --version | head -1 | cut -d' ' -f1-2), cgroup v2"
  grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ *//'
  $NEUROVISOR_FIRECRACKER --version | head -1
  qemu-system-x86_64 --version | head -1
  bwrap --version`;

/** Its members are valid inside tests. */
export interface NestedWorld {
  readonly upstream: MockUpstream;
  /** The model server of this machine, as the nested host reaches it. */
  readonly upstreamUrl: string;
  /** Runs a bash script as root in the nested host. @throws Error if its status is not 0 */
  sh(script: string, timeoutMs?: number): Promise<string>;
  /**
   * Runs `neurovisor` as a service of root with Delegate=yes, so with control groups that have all limits.
   * @returns its stdout @throws Error with its stderr if its status is neither 0 nor 1
   */
  command(words: string, timeoutMs: number): Promise<string>;
  vmmOf(id: string): Promise<VmmState>;
  /** Starts a daemon with the shipped unit. One at a time. */
  serve(vmm: NestedVmm, as?: { user: string; home: string }): Promise<NestedDaemon>;
}

const SH_MS_MAX = 600_000;

/** Body of a `describe`. @param name of the record of this run's results */
export function useNestedHost(parts: NestedParts, name: string): NestedWorld {
  let daemons = 0;
  let made: { nested: OpenNestedHost; upstream: MockUpstream } | undefined;
  const there = () => {
    if (made === undefined) throw new Error('the nested host is there only inside tests');
    return made;
  };
  beforeAll(async () => {
    const nested = await openNestedHost(parts);
    made = { nested, upstream: await startMockUpstream() };
    const names = { [ALLOWED.name]: ALLOWED.address, [FORBIDDEN.name]: FORBIDDEN.address };
    const addresses = [ALLOWED.address, FORBIDDEN.address, METADATA].join(' ');
    await sh(`bash /nested/internet '${JSON.stringify(names)}' ${addresses}`, INTERNET_MS_MAX);
  });
  const results: NestedResult[] = [];
  afterEach(({ task }) => {
    const suite = task.suite?.name ?? '';
    const passed = task.result?.state === 'pass';
    results.push({ suite, title: task.name, passed });
    // Vitest reports nothing before the end of the file, which a run that is cut off does not see.
    const errors = (task.result?.errors ?? []).map(({ message }) => `\n${message}`);
    process.stderr.write(`${passed ? '✓' : '×'} ${suite}: ${task.name}${errors.join('')}\n`);
    // Otherwise a failure would be attributed to the product.
    if (task.result?.state === 'fail') made?.nested.host.check();
  });
  afterAll(async () => {
    if (made === undefined) return;
    try {
      const versions = await sh(VERSIONS);
      const dir = nestedResults(parts.home);
      await mkdir(dir, { recursive: true });
      const record: NestedRecord = { date: new Date().toISOString(), versions, results };
      await writeFile(join(dir, `${name}.json`), JSON.stringify(record, null, 2));
    } finally {
      await made.nested[Symbol.asyncDispose]();
      await made.upstream.close();
    }
  });

  async function sh(script: string, timeoutMs = SH_MS_MAX): Promise<string> {
    const { status, output } = await there().nested.host.run(`${NESTED_ENVIRONMENT}${script}`, timeoutMs);
    if (status !== 0) throw new Error(`status ${status} of: ${script}\n${output}`);
    return output;
  }

  async function command(words: string, timeoutMs: number): Promise<string> {
    const out = '/tmp/command';
    return await sh(
      `
      env | grep -E '^(HOME=|NEUROVISOR_|NODE_|NO_COLOR|PATH=)' > ${out}.env
      cat > /run/systemd/system/command.service << END
[Service]
Type=oneshot
Delegate=yes
OOMPolicy=continue
SuccessExitStatus=1
WorkingDirectory=/data/neurovisor
EnvironmentFile=${out}.env
ExecStart=/tools/node src/cli/main.ts ${words}
StandardOutput=truncate:${out}.out
StandardError=truncate:${out}.err
END
      systemctl daemon-reload
      systemctl start command.service || { cat ${out}.err; exit 1; }
      cat ${out}.out`,
      timeoutMs,
    );
  }

  async function serve(
    vmm: NestedVmm,
    { user, home }: { user: string; home: string } = ROOT_USER,
  ): Promise<NestedDaemon> {
    const { host, dir } = there().nested;
    const out = `/tmp/${UNIT}`;
    // The shipped unit, with other paths.
    const unit = [
      `s#^User=.*#User=${user}#`,
      `s#^ExecStart=.*#ExecStart=/tools/node src/cli/main.ts serve --vmm ${vmm} --pool 0 -o json#`,
      `s#^Environment=.*#WorkingDirectory=/data/neurovisor\\nEnvironmentFile=${out}.env#`,
      `s#^Type=.*#&\\nStandardOutput=truncate:${out}.out\\nStandardError=truncate:${out}.err#`,
      '/^StateDirectory/d',
    ];
    const property = (name: string) => `$(systemctl show --property ${name} --value ${UNIT})`;
    const ready = `
      until grep -q socketPath ${out}.out; do
        systemctl is-active --quiet ${UNIT} || { sleep 2; cat ${out}.ended; systemctl stop ${UNIT}; exit 1; }
        sleep 0.3
      done`;
    await sh(
      `
      NEUROVISOR_HOME=${home} NEUROVISOR_ON_STOP=end NEUROVISOR_UPSTREAM=${upstreamUrl()} NODE_COMPILE_CACHE=${home}/cache/node \
        env | grep -E '^(NEUROVISOR_|NODE_|NO_COLOR|PATH=)' > ${out}.env
      sed "${unit.join('; ')}" deploy/systemd/neurovisor.service > /run/systemd/system/${UNIT}
      mkdir -p /run/systemd/system/${UNIT}.d
      # The next start truncates what this one has said.
      cat > /run/systemd/system/${UNIT}.d/ended.conf << 'END'
[Service]
ExecStopPost=/bin/sh -c 'cat ${out}.out ${out}.err > ${out}.ended; echo $$SERVICE_RESULT $$EXIT_CODE $$EXIT_STATUS >> ${out}.ended'
END
      rm -f ${out}.ended
      systemctl daemon-reload
      systemctl start ${UNIT}
      ${ready}`,
      SERVE_MS_MAX,
    );
    const connect = async (): Promise<RemoteControlPlane> => {
      daemons += 1;
      const socketPath = join(dir, `${daemons}.sock`);
      await host.forward(`${home}/run/daemon.sock`, socketPath);
      return await connectDaemon({ socketPath });
    };
    let control = await connect();
    return {
      get control() {
        return control;
      },
      stderr: () => sh(`cat ${out}.err`),
      crash: async () => {
        await control[Symbol.asyncDispose]();
        await sh(
          `
          before=${property('NRestarts')}
          kill -9 ${property('MainPID')}
          until [ ${property('NRestarts')} != $before ] && systemctl is-active --quiet ${UNIT}; do
            ! systemctl is-failed --quiet ${UNIT} || exit 1
            sleep 0.3
          done
          ${ready}`,
          SERVE_MS_MAX,
        );
        control = await connect();
      },
      stop: async () => {
        await control[Symbol.asyncDispose]();
        const left = await sh(
          `
          systemctl stop ${UNIT}
          find ${home}/run -mindepth 1 -not -path ${home}/run/jail -not -path ${home}/run/jail/firecracker
          find /sys/fs/cgroup -path '*/neurovisor/*' -type d
          ip -o link | grep -o 'nv-[^:@]*' || true`,
          STOP_MS_MAX,
        );
        return left.split('\n').filter((line) => line !== '');
      },
    };
  }

  // The nested host reaches this machine's loopback by 10.0.2.2.
  function upstreamUrl(): string {
    return `http://10.0.2.2:${new URL(there().upstream.target.baseUrl ?? '').port}`;
  }

  return {
    get upstream() {
      return there().upstream;
    },
    get upstreamUrl() {
      return upstreamUrl();
    },
    sh,
    command,
    serve,
    vmmOf: async (id) => {
      const vmms = JSON.parse(await sh(`python3 test/fixtures/nested-vmm.py ${id}`)) as VmmState[];
      const [vmm] = vmms;
      if (vmm === undefined || vmms.length > 1) throw new Error(`${vmms.length} VMMs of ${id}`);
      return vmm;
    },
  };
}
