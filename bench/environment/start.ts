/** The time until a program of a container image prints, in a new sandbox: against container runtimes, and no image. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { openImages } from '../../src/host/runtime/images.ts';
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { waitForCalm } from '../calm.ts';
import { rowsOf } from '../compare.ts';
import { openBenchControl } from '../control.ts';
import { firstOutputMs } from '../output.ts';
import { Containers } from './containers.ts';
import { imagesContext } from './images-context.ts';
import { writeLayout } from './oci-layout.ts';
import { IN_IMAGE, MISSING, makeBusyboxTree } from './static-program.ts';

const OUTPUT = '1\n';
const IN_AGENT = ['echo', '1'];
const IN_BUSYBOX = [IN_IMAGE, ...IN_AGENT];
const NAMES = ['environment.start', 'environment.start/crun', 'environment.start/runsc'] as const;

/** Milliseconds until the first output. */
interface Samples {
  readonly image: number[];
  readonly agent: number[];
  /** A text says why there are no samples. */
  readonly crun: number[] | string;
  readonly runsc: number[] | string;
}

export const environmentBenchmark: Benchmark = {
  names: NAMES,
  summary: 'start in a container image until its program prints: against no image, crun, and runsc (gVisor)',
  async measure(context) {
    const { signal } = context;
    await using opened = await openBenchControl(context);
    const { control, dir } = opened;
    const tree = join(dir, 'tree');
    await mkdir(tree);
    if (!(await makeBusyboxTree(tree, process.env))) return notMeasured(context);
    await writeLayout(join(dir, 'layout'), tree, { Cmd: IN_BUSYBOX }, signal);
    const image = `oci:${join(dir, 'layout')}:latest`;
    const spec = { tree, argv: IN_BUSYBOX, output: OUTPUT };
    const crun = await Containers.open('crun', spec);
    const runsc = await Containers.open('runsc', spec);
    try {
      return await measureStarts(context, control, { image, crun, runsc });
    } finally {
      for (const one of [crun, runsc]) {
        if (typeof one !== 'string') await one[Symbol.asyncDispose]();
      }
      await forget(context, image);
    }
  },
};

function notMeasured({ runtime }: BenchContext): Measurement[] {
  const row = rowsOf('ms', runtime.driver.accelerator);
  return NAMES.map((name) => row(name, [], null, { note: MISSING }));
}

async function measureStarts(
  context: BenchContext,
  control: LocalControlPlane,
  given: { readonly image: string; readonly crun: Containers | string; readonly runsc: Containers | string },
): Promise<Measurement[]> {
  const { rounds, signal, say } = context;
  const { image, crun, runsc } = given;
  const attempts = new Attempts(signal);
  const samples: Samples = {
    image: [],
    agent: [],
    crun: typeof crun === 'string' ? crun : [],
    runsc: typeof runsc === 'string' ? runsc : [],
  };
  let busyRounds = 0;
  // The first round builds the templates and fills the page cache; it is not counted.
  for (let round = 0; round <= rounds; round += 1) {
    say(`start ${round} of ${rounds}`);
    let isCalm = round > 0;
    // Also after a sandbox, whose end takes a while; not again in a round that waited in vain.
    const calm = async (): Promise<void> => {
      if (isCalm) isCalm = await waitForCalm(signal);
    };
    const keep = (to: number[] | string, ms: number): void => {
      if (round > 0 && typeof to !== 'string') to.push(ms);
    };
    await calm();
    await attempts.run(async () => {
      keep(samples.image, await startMs(control, { image }, IN_BUSYBOX, round, signal));
    });
    await calm();
    keep(samples.agent, await startMs(control, {}, IN_AGENT, round, signal));
    for (const [one, to] of [
      [crun, samples.crun],
      [runsc, samples.runsc],
    ] as const) {
      if (typeof one === 'string') continue;
      await calm();
      keep(to, (await one.run()).firstOutputMs);
    }
    if (round > 0 && !isCalm) busyRounds += 1;
  }
  const note = `the machine was busy in ${busyRounds} of ${rounds} rounds`;
  return rows(context, samples, attempts, note);
}

/** From the request for the sandbox until its program's first output. */
async function startMs(
  control: LocalControlPlane,
  options: { readonly image?: string },
  argv: readonly string[],
  round: number,
  signal: AbortSignal,
): Promise<number> {
  let made: string | undefined;
  try {
    return await firstOutputMs(async () => {
      const { id, origin } = await control.create(options, signal);
      made = id;
      if (origin !== 'clone' && round > 0) throw new Error(`the sandbox is a ${origin}, not a clone`);
      return await (await control.guest(id)).exec({ argv, stdin: false }, signal);
    }, OUTPUT);
  } finally {
    if (made !== undefined) await control.remove(made);
  }
}

function rows(
  { runtime }: BenchContext,
  { image, agent, crun, runsc }: Samples,
  attempts: Attempts,
  note: string,
): Measurement[] {
  const make = rowsOf('ms', runtime.driver.accelerator);
  const row = (name: (typeof NAMES)[number], baseline: string, samples: readonly number[] | string): Measurement =>
    typeof samples === 'string'
      ? make(name, image, null, attempts.failures(samples))
      : make(name, image, [baseline, samples], attempts.failures(note));
  return [
    row('environment.start', 'the same without an image', agent),
    row('environment.start/crun', 'crun run', crun),
    row('environment.start/runsc', 'runsc run', runsc),
  ];
}

/** Removes the image, and the template that its first sandbox built. */
async function forget(context: BenchContext, image: string): Promise<void> {
  const { runtime } = context;
  for (const { key, spec } of await runtime.templates.list()) {
    if (spec.environment?.image === image && key !== null) await runtime.templates.remove(key);
  }
  // Also after Ctrl-C.
  const { signal } = new AbortController();
  const images = openImages(imagesContext({ ...context, signal }));
  const known = (await images.list()).some(({ names }) => names.includes(image));
  if (known) await images.remove([image], '/', signal);
}
