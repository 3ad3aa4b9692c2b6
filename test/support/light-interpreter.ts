/**
 * A small template with E2B's code interpreter: the server of `environments/code-interpreter` with Python's and bash's
 * kernels, without Deno and the packages for data science. Its packages are copied from the tests without a VM: an
 * installation in an emulated VM takes minutes.
 */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { readyMadeDir } from '../../src/artifacts/ready-made.ts';
import { interpreterPackages } from './code-interpreter.ts';
import type { DaemonHome } from './daemon.ts';
import { run } from './locked-packages.ts';

export const LIGHT = 'light-interpreter';

const DOCKERFILE = join(import.meta.dirname, '../fixtures/light-interpreter/Dockerfile');
/** Where the Dockerfile copies them. */
const PLACES = { packages: '/opt/packages', code_interpreter: '/opt/code-interpreter/code_interpreter' } as const;
/** Packages that the kernels do not import, or only if present. */
const UNUSED =
  /^(contourpy|cycler|debugpy|deno|e2b_charts|fonttools|jedi|kiwisolver|matplotlib|mpl_toolkits|numpy|pandas|pil|pillow|pydantic|pydantic_core|pylab|pyparsing|tzdata)\b/i;

/** Call before the home's daemon starts. @throws if the packages can't be fetched */
export async function makeLightInterpreter(home: DaemonHome): Promise<void> {
  const found = interpreterPackages();
  if (typeof found === 'string') throw new Error(found);
  const dir = mkdtempSync(join(tmpdir(), 'nv-light-interpreter-'));
  try {
    const from = join(dirname(found.python), '../lib/python3.11/site-packages');
    const packages = join(dir, 'packages');
    mkdirSync(packages);
    for (const name of readdirSync(from).filter((one) => !UNUSED.test(one))) {
      cpSync(join(from, name), join(packages, name), { recursive: true });
    }
    const server = join(readyMadeDir('code-interpreter'), 'code_interpreter');
    cpSync(server, join(dir, 'code_interpreter'), { recursive: true });
    cpSync(DOCKERFILE, join(dir, 'Dockerfile'));
    // The kernels' user can't write beside the sources, so each kernel would compile them all.
    for (const [name, place] of Object.entries(PLACES)) {
      const how = ['-q', '--invalidation-mode', 'unchecked-hash'];
      // The path in the image, not in this directory: then each run has the same bytes, which are copied only once.
      const paths = ['-s', join(dir, name), '-p', place, join(dir, name)];
      run(found.python, ['-m', 'compileall', ...how, ...paths]);
    }
    const start = ['--start', 'exec python3 -m code_interpreter --warm python'];
    // The server listens once its kernels are ready.
    const ready = ['--ready', "bash -c ': </dev/tcp/127.0.0.1/49999'", '--ready-timeout', '10m'];
    const size = ['--memory', '512M', '--disk', '512M'];
    await home.says('image', 'build', '-t', LIGHT, dir);
    await home.says('template', 'create', '-t', LIGHT, '--image', LIGHT, ...size, ...start, ...ready);
  } finally {
    rmSync(dir, { recursive: true });
  }
}
