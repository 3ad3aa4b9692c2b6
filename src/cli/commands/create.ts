/** `neurovisor create`: creates a sandbox that runs until it is removed or its timeout. */
import { systemClock } from '../../base/clock.ts';
import type { ControlPlane, CreateRequest, SandboxInfo, TimeoutAction } from '../../sandbox/contract/control.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { checkModelThere } from '../flags/offered.ts';
import { snapshotId } from '../flags/pick.ts';
import { requirementsOf } from '../flags/requirement-flags.ts';
import { CREATE_FIELDS, type SandboxFlags, sandboxRequest } from '../flags/sandbox-fields.ts';
import { duration } from '../output/table.ts';
import { templateStep, withTemplateProgress } from '../output/template-progress.ts';
import { withBuiltImage } from './built-image.ts';
import { pulledImage } from './pull-image.ts';

/** What is read of the options beside the request. */
export interface CreateFlags extends SandboxFlags {
  readonly timeout?: string;
  readonly onTimeout?: TimeoutAction;
  readonly snapshot?: string;
  readonly model?: string;
}

/** Text: the id alone on stdout, so that `id=$(neurovisor create)` works. */
export async function create(cli: Cli, control: ControlPlane, flags: CreateFlags): Promise<number> {
  const requirements = await requirementsOf(flags);
  const packages = requirements.length === 0 ? {} : { requirements };
  const checked = createRequest(cli, flags);
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
  if (snapshot !== undefined) {
    if (flags.template !== undefined)
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
  if (flags.onTimeout !== undefined && flags.timeout === undefined) {
    throw new UsageError(
      '--on-timeout needs --timeout',
      `add it, for example --timeout 2h --on-timeout ${flags.onTimeout}`,
    );
  }
  return sandboxRequest(CREATE_FIELDS, flags, cli);
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
    ...(cpus === undefined ? [] : ['--cpus', cpus]),
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
