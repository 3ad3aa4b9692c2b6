/** The cost of a Dockerfile's build beside its commands: each step, the whole, and a build without a change. */
import { mkdir, mkdtemp, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { STAGE_VM_DEFAULTS } from '../../src/artifacts/dockerfile/limits.ts';
import { buildEnvironment } from '../../src/host/builds/environment-build.ts';
import { type ImagesContext, openBuilder, openImages } from '../../src/host/runtime/images.ts';
import type { BuildEvent } from '../../src/sandbox/contract/contents.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { compare, rowsOf, type Samples } from '../compare.ts';
import { Containers } from './containers.ts';
import { imagesContext } from './images-context.ts';
import { writeLayout } from './oci-layout.ts';
import { IN_IMAGE, MISSING, makeBusyboxTree } from './static-program.ts';

const STEPS = 5;
const NO_OP = [IN_IMAGE, 'true'];
const NAMES = ['build.step', 'build.whole', 'build.unchanged'] as const;

type BuildTimes = Awaited<ReturnType<typeof buildTwice>>;

export const buildBenchmark: Benchmark = {
  names: NAMES,
  summary: `a build with ${STEPS} commands that do nothing: each, all, and again without a change`,
  async measure(context) {
    const { runtime, signal } = context;
    const dir = await mkdtemp(join(runtime.home.dir, 'bench-'));
    try {
      const tree = join(dir, 'tree');
      await mkdir(tree);
      if (!(await makeBusyboxTree(tree, process.env))) return rows(context, null, MISSING);
      await writeLayout(join(dir, 'layout'), tree, {}, signal);
      return await measureBuilds(context, dir, tree);
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  },
};

async function measureBuilds(context: BenchContext, dir: string, tree: string): Promise<Measurement[]> {
  const { signal } = context;
  const images = await ownCache(context, dir);
  const crun = await Containers.open('crun', { tree, argv: NO_OP, output: '' });
  const attempts = new Attempts(signal);
  const isMissing = typeof crun === 'string';
  try {
    // The first round unpacks the base.
    const { own, container } = await compare(context, 'build', {
      own: () => attempts.run(() => buildTwice(images, dir)),
      container: isMissing ? null : (round) => runSteps(crun, round),
    });
    const { note, failed } = attempts.failures(isMissing ? crun : undefined);
    return rows(context, { own, container: container('step') }, note, failed);
  } finally {
    if (!isMissing) await crun[Symbol.asyncDispose]();
  }
}

/** Its own round 0 is the run of `Containers.open`. */
async function runSteps(crun: Containers, round: number): Promise<{ readonly step: readonly number[] }> {
  const step: number[] = [];
  while (round > 0 && step.length < STEPS) step.push((await crun.run()).endMs);
  return { step };
}

/** A cache that is removed, so that builds leave nothing behind, with the machine's own tools. */
async function ownCache(benchContext: BenchContext, dir: string): Promise<ImagesContext> {
  const cacheDir = join(dir, 'cache');
  const context = imagesContext(benchContext);
  const { cacheDir: shared, runDir } = context.home;
  // Makes the tools if they are missing.
  await openBuilder(context);
  await mkdir(cacheDir);
  for (const name of ['builder-tools', 'setup.lock']) {
    await symlink(join(shared, name), join(cacheDir, name));
  }
  return { ...context, home: { cacheDir, runDir } };
}

/** Builds once with no step of an earlier build, once with all. @throws unless that is so */
async function buildTwice(images: ImagesContext, dir: string) {
  const marks: StepMark[] = [];
  const whole = await buildMs(images, dir, true, marks);
  const unchanged = await buildMs(images, dir, false, []);
  return { step: stepTimes(marks), whole, unchanged };
}

async function buildMs(images: ImagesContext, dir: string, noCache: boolean, marks: StepMark[]): Promise<number> {
  const began = performance.now();
  const { steps } = await buildEnvironment(images, openImages(images), {
    request: {
      dockerfile: Buffer.from(dockerfile(`oci:${join(dir, 'layout')}:latest`)),
      dockerfilePath: null,
      contextDir: dir,
      buildArgs: {},
      target: null,
      secrets: new Map(),
      noCache,
    },
    vm: { ...STAGE_VM_DEFAULTS, network: null },
    name: null,
    onEvent: ({ kind }) => void marks.push({ kind, atMs: performance.now() }),
  });
  const ms = performance.now() - began;
  const ran = noCache ? STEPS : 0;
  if (steps.run !== ran || steps.cached !== STEPS - ran) {
    throw new Error(`${steps.run} steps ran, ${steps.cached} were cached`);
  }
  return ms;
}

function dockerfile(base: string): string {
  return [`FROM ${base}`, ...Array(STEPS).fill(`RUN ${JSON.stringify(NO_OP)}`), ''].join('\n');
}

export interface StepMark {
  readonly kind: BuildEvent['kind'];
  readonly atMs: number;
}

/** Time of each step until the next began, or packing: by then its result is stored. */
export function stepTimes(marks: readonly StepMark[]): number[] {
  const begins = marks.filter(({ kind }) => kind === 'step' || kind === 'pack');
  return begins.slice(1).map(({ atMs }, index) => atMs - (begins[index]?.atMs ?? atMs));
}

/** @param samples `null` if nothing was measured */
function rows(
  { runtime }: BenchContext,
  samples: { readonly own: Samples<keyof BuildTimes>; readonly container: readonly number[] } | null,
  note?: string,
  failed = 0,
): Measurement[] {
  const row = rowsOf('ms', runtime.driver.accelerator);
  const noted = (about?: string) => {
    const notes = [about, note].filter((one) => one !== undefined);
    return { failed, ...(notes.length === 0 ? {} : { note: notes.join('; ') }) };
  };
  if (samples === null) return NAMES.map((name) => row(name, [], null, noted()));
  const { own, container } = samples;
  const crun = container.length === 0 ? null : (['crun run, until it is gone', container] as const);
  return [
    row('build.step', own('step'), crun, noted('with keeping its result, which crun does not')),
    row('build.whole', own('whole'), null, noted(`a VM, ${STEPS} steps, packing; no baseline`)),
    row('build.unchanged', own('unchanged'), ['build.whole', own('whole')], noted()),
  ];
}
