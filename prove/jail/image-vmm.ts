/** Attacks of a compromised VMM on the golden image that it has open. */
import { FILES } from '../../src/machine/vmm/firecracker/config.ts';
import type { Notes } from '../proof.ts';
import type { Injector, SystemCall } from './inject.ts';
import { SIGSYS } from './vmm.ts';

const AT_FDCWD = 0xffff_ff9c;
const O_RDONLY = 0;
const O_RDWR = 2;
const O_TRUNC = 0o1000;
const OPEN = 2;
const OPENAT = 257;
const TRUNCATE = 76;
/** The file has another owner. */
const EACCES = 13;
/** The mount is read-only. */
const EROFS = 30;

interface ImageFile {
  readonly path: string;
  /** A call that its filter allows. */
  open(flags: number): SystemCall;
}

export const ofQemu = (path: string): ImageFile => ({
  path,
  open: (flags) => ({ name: 'openat', number: OPENAT, args: [AT_FDCWD, `@${path}`, flags, 0] }),
});

const inJail = `/${FILES.root}`;
export const FIRECRACKER_FILE: ImageFile = {
  path: inJail,
  open: (flags) => ({ name: 'open', number: OPEN, args: [`@${inJail}`, flags, 0] }),
};

/** The last attack may end the VM. */
export async function vmmTries(notes: Notes, injector: Injector, pid: number, image: ImageFile): Promise<void> {
  const read = await injector.call(pid, image.open(O_RDONLY));
  notes.note('control: the VMM opens it for reading', 'a descriptor', read, /^returned \d+$/.test(read));
  for (const [what, flags] of [
    ['the VMM opens it for writing', O_RDWR],
    ['the VMM opens it with O_TRUNC', O_RDWR | O_TRUNC],
  ] as const) {
    const seen = await injector.call(pid, image.open(flags));
    const isRefused = seen === `returned -${EACCES}` || seen === `returned -${EROFS}`;
    notes.note(what, 'refused', seen, isRefused);
  }
  const cut = await injector.call(pid, { name: 'truncate', number: TRUNCATE, args: [`@${image.path}`, 0] });
  const isRefused = [`returned -${EROFS}`, `killed by ${SIGSYS}`, 'exited 148'].includes(cut);
  notes.note('the VMM truncates it', 'refused', cut, isRefused);
}
