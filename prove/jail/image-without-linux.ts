/** The image proof under Firecracker on hosts that can't boot Linux: the tests' tiny guest tries to write. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestFile } from '../../src/artifacts/image/verify.ts';
import { sleep } from '../../src/base/clock.ts';
import { concurrently } from '../concurrently.ts';
import { ProofError } from '../errors.ts';
import { Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { FirecrackerVmms } from './firecracker-vmms.ts';
import { FIRECRACKER_FILE, vmmTries } from './image-vmm.ts';
import { Injector } from './inject.ts';
import { askTinyGuest, awaitTinyGuest, buildTinyGuest } from './tiny-guest.ts';
import type { Vmm } from './vmm.ts';

/** As built images: root's, readable by all. */
const IMAGE_MODE = 0o644;
const CONTENT = 'golden';
const HELLO_MS_MAX = 60_000;
const IMAGE_BYTES = 64 * 1024;
const GUESTS_AT_ONCE = 8;

/** @throws ProofError `no_world` if it can't be proved here */
export async function proveImageWithoutLinux(context: JailContext): Promise<Proof> {
  const notes = new Notes();
  const { guests = 1, signal } = context;
  await using injector = await Injector.make();
  await using vmms = await FirecrackerVmms.open(context);
  const dir = await mkdtemp(join(tmpdir(), 'nv-prove-'));
  try {
    const kernelPath = join(dir, 'kernel');
    const rootImagePath = join(dir, 'image');
    await buildTinyGuest(kernelPath);
    const image = Buffer.alloc(IMAGE_BYTES);
    image.write(CONTENT);
    await writeFile(rootImagePath, image, { mode: IMAGE_MODE });
    const before = await digestFile(rootImagePath);
    const seen: string[] = [];
    await concurrently(guests, GUESTS_AT_ONCE, async (index) => {
      signal?.throwIfAborted();
      const place = await vmms.place();
      const vmm = await startTinyGuest(vmms, place, { kernelPath, rootImagePath });
      const ask = (command: string): Promise<string> => askTinyGuest(place.channelPath, command);
      try {
        if (index === 0) {
          // Marks that this is not the Linux guest of sandboxes.
          notes.note('a guest that boots where Linux does not', 'it runs', 'it runs', true);
          notes.same('control: a guest writes to its own disk', 'done', await ask('WRITE probe'));
          notes.same('control: and reads it back', 'probe', await ask('INFO disk1'));
          notes.same('control: a guest reads the image', CONTENT, await ask('INFO disk0'));
        }
        seen.push(await ask('INFO write-root'));
        if (index === 0) await vmmTries(notes, injector, vmm.pid, FIRECRACKER_FILE);
      } finally {
        await vmm.end();
      }
    });
    const wrong = seen.find((answer) => answer !== 'refused');
    notes.note(
      'the kernel of a guest writes to the device',
      'refused always',
      wrong ?? `refused ${seen.length} times`,
      wrong === undefined && seen.length === guests,
    );
    const after = await digestFile(rootImagePath);
    const what = guests === 1 ? 'its digest afterwards' : `its digest after ${guests} guests`;
    notes.same(what, before.slice(0, 16), after.slice(0, 16));
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
  return notes.proof('image');
}

async function startTinyGuest(
  vmms: FirecrackerVmms,
  place: Awaited<ReturnType<FirecrackerVmms['place']>>,
  files: { readonly kernelPath: string; readonly rootImagePath: string },
): Promise<Vmm> {
  const hello = await awaitTinyGuest(place.channelPath);
  const over = new AbortController();
  const vmm = await vmms.start(place, files);
  try {
    const died = vmm.exited.then(({ cause, detail }) => {
      throw new ProofError('no_world', 'could not run a guest', { cause: new Error(`${cause} ${detail}`) });
    });
    await Promise.race([hello.ready, died, silent(over.signal)]);
  } finally {
    over.abort();
    await hello.close();
  }
  return vmm;
}

async function silent(signal: AbortSignal): Promise<never> {
  await sleep(HELLO_MS_MAX, signal);
  const cause = new Error(`no hello within ${HELLO_MS_MAX / 1_000} s`);
  throw new ProofError('no_world', 'could not run a guest', { cause });
}
