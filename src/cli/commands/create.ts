/** `neurovisor create`: creates a sandbox that runs until it is removed or its timeout. */
import { systemClock } from '../../base/clock.ts';
import type {
  ControlPlane,
  CreateRequest,
  MemoryAction,
  SandboxInfo,
  TimeoutAction,
} from '../../sandbox/contract/control.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { checkBuildFlags } from '../flags/image-flag.ts';
import { checkModelThere } from '../flags/offered.ts';
import { parsePairs } from '../flags/options.ts';
import { snapshotId } from '../flags/pick.ts';
import * as ranges from '../flags/ranges.ts';
import { requirementsOf } from '../flags/requirement-flags.ts';
import { type SandboxFlags, sandboxOptions, templateOption } from '../flags/sandbox-flags.ts';
import { duration } from '../output/table.ts';
import { templateStep, withTemplateProgress } from '../output/template-progress.ts';
import { requireBuildHere, withBuiltImage } from './built-image.ts';
import { pulledImage } from './pull-image.ts';

export interface CreateFlags extends SandboxFlags {
  readonly label: readonly string[];
  readonly timeout?: string;
  readonly onTimeout?: TimeoutAction;
  readonly idleTimeout?: string;
  readonly onMemoryPressure?: string;
  /** False with `--no-auto-resume`. */
  readonly autoResume?: boolean;
  readonly snapshot?: string;
  readonly model?: string;
}

/** Text: the id alone on stdout, so that `id=$(neurovisor create)` works. */
export async function create(cli: Cli, control: ControlPlane, flags: CreateFlags): Promise<number> {
  const requirements = await requirementsOf(flags);
  const packages = requirements.length === 0 ? {} : { requirements };
  const checked = createRequest(cli, flags);
  requireBuildHere(cli, flags);
  await checkModelThere(control, flags.model);
  const withImage = await withBuiltImage(cli, flags);
  const request = { ...checked, ...packages, ...(await pulledImage(cli, withImage)) };
  const { snapshot } = request;
  const creating = control.create(
    snapshot === undefined ? request : { ...request, snapshot: await snapshotId(control, snapshot) },
    cli.cancelled,
  );
  const step = templateStep(request);
  const info = step === null ? await creating : await withTemplateProgress(cli, systemClock, step, creating);
  if (cli.json) cli.printJson(info);
  else {
    cli.stderr.write(`${howItStarted(info)}\n${whyItBooted(info, withImage)}`);
    cli.stdout.write(`${info.id}\n`);
  }
  return 0;
}

/** @throws UsageError */
export function createRequest(cli: Pick<Cli, 'env'>, flags: CreateFlags): CreateRequest {
  const { cpus, memory, memoryMax, disk, warm, snapshot, boot } = flags;
  checkBuildFlags(flags);
  const named = templateOption(flags);
  if (snapshot !== undefined) {
    if (named.template !== undefined)
      throw new UsageError('--snapshot and --template are mutually exclusive', 'omit one of them');
    if (boot === true) throw new UsageError('--snapshot and --boot are mutually exclusive', 'omit one of them');
    const sizes = [cpus, memory, memoryMax, disk];
    const lists = [warm, flags.with ?? [], flags.requirements || []];
    const isGiven = [...sizes, flags.image, flags.build].some((one) => one !== undefined);
    if (isGiven || lists.some((list) => list.length > 0)) {
      throw new UsageError(
        'a snapshot has its own size, image, warm list and packages',
        'omit --cpus, --memory, --memory-max, --disk, --image, --build, --warm, --with and --requirements',
      );
    }
  }
  if (flags.model !== undefined && /\.gguf$/i.test(flags.model)) {
    throw new UsageError(
      'the daemon cannot load a .gguf file for one sandbox',
      'use a model of the daemon, or neurovisor run --model FILE.gguf',
    );
  }
  const { timeout, idleTimeout } = flags;
  if (flags.onTimeout !== undefined && timeout === undefined) {
    throw new UsageError(
      '--on-timeout needs --timeout',
      `add it, for example --timeout 2h --on-timeout ${flags.onTimeout}`,
    );
  }
  return {
    ...sandboxOptions(cli, flags, flags.model === undefined ? {} : { defaultModel: flags.model }),
    metadata: parsePairs(flags.label, '--label'),
    timeoutMs: timeout === undefined ? undefined : ranges.timeout(timeout),
    onTimeout: flags.onTimeout,
    idleTimeoutMs: idleTimeout === undefined || idleTimeout === 'never' ? null : ranges.idleTimeout(idleTimeout),
    // Commander sets `true` if a `--no-…` flag is absent.
    autoResume: flags.autoResume === false ? false : undefined,
    // Validated by the control plane, which knows its capabilities.
    onMemoryPressure: flags.onMemoryPressure as MemoryAction | undefined,
    snapshot,
    boot,
    ...named,
  };
}

const HOW: Readonly<Record<SandboxInfo['origin'], string>> = {
  pool: 'taken from the pool',
  clone: 'cloned from a template',
  boot: 'booted',
  snapshot: 'restored from a snapshot',
  fork: 'forked',
};

/** Explains an unrequested boot, and how to avoid the next one; empty: no such boot. */
function whyItBooted({ origin }: SandboxInfo, { boot, ...flags }: CreateFlags): string {
  const { cpus, memory, memoryMax, disk, image, warm } = flags;
  const words = [
    ...(cpus === undefined ? [] : ['--cpus', `${cpus}`]),
    ...(memory === undefined ? [] : ['--memory', memory]),
    ...(memoryMax === undefined ? [] : ['--memory-max', memoryMax]),
    ...(disk === undefined ? [] : ['--disk', disk]),
    ...(image === undefined ? [] : ['--image', image]),
    ...warm.flatMap((name) => ['--warm', name]),
  ];
  if (origin !== 'boot' || boot === true || words.length === 0) return '';
  return `no template of this kind; to clone the next one, run: neurovisor template create ${words.join(' ')}\n`;
}

function howItStarted({ origin, readyMs }: SandboxInfo): string {
  return readyMs === null ? HOW[origin] : `${HOW[origin]} in ${duration(readyMs)}`;
}
