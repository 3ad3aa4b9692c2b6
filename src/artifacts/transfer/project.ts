/** Sends a project to a guest, and records its state at that time. */
import { createHash } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import type { Guest } from '../../machine/guest/link.ts';
import type { Content } from './content.ts';
import { sendTree } from './copy-in.ts';
import { IgnoreRules } from './ignored.ts';
import type { TransferOptions } from './transfer.ts';
import { listHere } from './tree-here.ts';

export interface SentProject {
  /** Real path of the directory on this machine. */
  readonly from: string;
  readonly to: string;
  readonly rules: IgnoreRules;
  /** Paths below the directory, without the directory itself. */
  readonly contents: ReadonlyMap<string, Content>;
}

/** Sends the directory without ignored files. @throws CopyError `invalid_source`, `guest_failed`; GuestError */
export async function sendProject(
  guest: Guest,
  source: string,
  target: string,
  options: TransferOptions,
): Promise<SentProject> {
  const from = await realpath(source);
  const rules = new IgnoreRules();
  const entries = await listHere(from, rules);
  const sums = new Map<string, string>();
  await sendTree(guest, entries, target, options, async function* ({ path }, content) {
    const hash = createHash('sha256');
    for await (const chunk of content) {
      hash.update(chunk);
      yield chunk;
    }
    sums.set(path, hash.digest('hex'));
  });
  const contents = new Map<string, Content>();
  for (const { type, path, mode, bytes, target: link = '' } of entries) {
    if (path === '') continue;
    if (type === 'file') contents.set(path, { type, mode, bytes, sha256: sums.get(path) ?? '' });
    else if (type === 'directory') contents.set(path, { type, mode });
    else contents.set(path, { type, target: link });
  }
  return { from, to: target, rules, contents };
}
