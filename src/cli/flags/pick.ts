/** Resolves the names and IDs that people type: a unique prefix of an ID is enough. */
import { parseSandboxId } from '../../base/ids.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import { SANDBOX_NAME, SANDBOX_NAME_FAULT } from '../../sandbox/contract/limits.ts';
import { UsageError } from '../failure.ts';

/**
 * @returns the full ID; a full ID is not looked up, and a name goes before a prefix
 * @throws UsageError unless the text is a name, or a prefix of exactly one ID
 */
export async function sandboxId(control: Pick<ControlPlane, 'list'>, text: string): Promise<string> {
  if (parseSandboxId(text) !== undefined) return text;
  const all = await control.list();
  const named = all.find(({ name }) => name === text);
  if (named !== undefined) return named.id;
  const ids = all.map(({ id }) => id);
  if (text !== '' && !ids.some((id) => id.startsWith(text))) {
    // An ended sandbox: the command then reports that it ended, and why.
    const ended = await control.list({ status: ['ended'] });
    const [one, another] = ended.map(({ id }) => id).filter((id) => id.startsWith(text));
    if (one !== undefined && another === undefined) return one;
  }
  return unambiguous(ids, text, 'sandbox', 'neurovisor ls -a');
}

/** Resolves a snapshot's name, ID, or unique prefix of its ID. @throws UsageError */
export async function snapshotId(control: Pick<ControlPlane, 'snapshots'>, text: string): Promise<string> {
  if (parseSandboxId(text) !== undefined) return text;
  const all = await control.snapshots();
  const named = all.find(({ name }) => name === text);
  if (named !== undefined) return named.id;
  return unambiguous(
    all.map(({ id }) => id),
    text,
    'snapshot',
    'neurovisor snapshot ls',
  );
}

function unambiguous(ids: readonly string[], text: string, noun: string, listCommand: string): string {
  const matching = text === '' ? [] : ids.filter((id) => id.startsWith(text));
  const [one, another] = matching;
  if (one === undefined) {
    throw new UsageError(`unknown ${noun} "${text}"`, `list them with: ${listCommand}`);
  }
  if (another === undefined) return one;
  throw new UsageError(
    `ambiguous ${noun} ID "${text}": ${matching.length} match`,
    `use more characters: ${matching.slice(0, 4).join(', ')}${matching.length > 4 ? ', …' : ''}`,
  );
}

/** The value of `--name`. @throws UsageError */
export function sandboxName(text: string): string {
  if (SANDBOX_NAME.test(text) && parseSandboxId(text) === undefined) return text;
  throw new UsageError(`--name "${text}": ${SANDBOX_NAME_FAULT}`);
}
