/**
 * Shows bubblewrap the files of a jail at places that any user may look up (I/O). Root's files are often below
 * directories that only root may enter. bubblewrap runs as the VMM's user, which is not root in any namespace, so root
 * mounts each file at a public place first, in a mount namespace of this start:
 *
 *     /run/neurovisor/tree      ◄── the program's tree
 *                     f0, d1 …  ◄── the plan's files and directories, by their index
 *
 * On the host these places hold the state directory itself, and nothing is mounted there.
 */
import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { FILES_MAX, type JailPlan, stagedFile, stagedTree } from './plan.ts';
import { requirePrivateDir } from './private-dir.ts';
import type { ProgramTree } from './program-tree.ts';

/** Everyone may pass, none may list. */
const PASSAGE = 0o711;

export interface Stage {
  /** Location of the files in a start's mount namespace. */
  readonly dir: string;
  /** Empty files and directories to mount on. */
  readonly pointsDir: string;
}

/**
 * @param stateDir the same for all processes of the host
 * @throws JailError `jail_dir_unsafe`
 */
export function prepareStage(stateDir: string): Stage {
  requirePrivateDir(stateDir);
  const pointsDir = join(stateDir, 'stage');
  requirePrivateDir(pointsDir);
  chmodSync(pointsDir, PASSAGE);
  mkdirSync(stagedTree(pointsDir), { recursive: true });
  for (let index = 0; index < FILES_MAX; index += 1) {
    closeSync(openSync(stagedFile(pointsDir, index, 'read'), 'a', 0o600));
    mkdirSync(stagedFile(pointsDir, index, 'tree'), { recursive: true });
  }
  return { dir: stateDir, pointsDir };
}

/** The mounts of one start, in the format of fstab(5). */
export function stageTable({ dir, pointsDir }: Stage, tree: ProgramTree, { files }: Pick<JailPlan, 'files'>): string {
  const mounts = [
    [pointsDir, dir],
    ...(tree.entries.length === 0 ? [] : [[tree.dir, stagedTree(dir)]]),
    // Devices are in /dev, which all users may enter.
    ...files.flatMap(({ path, access }, index) =>
      access === 'device' ? [] : [[path, stagedFile(dir, index, access)]],
    ),
  ];
  return mounts.map(([from = '', to = '']) => `${escaped(from)} ${escaped(to)} none bind 0 0\n`).join('');
}

/** fstab(5) separates fields by blanks. Other Unicode spaces do not separate, and have no code of three digits. */
function escaped(path: string): string {
  return path.replaceAll(/[ \t\n\v\f\r\\#]/g, (character) => {
    return `\\${character.charCodeAt(0).toString(8).padStart(3, '0')}`;
  });
}
