/** The files of an open volume, by programs of a guest that has it; what they say is checked. */
import type { Readable } from 'node:stream';
import { z } from 'zod';
import { collect } from '../../../base/collect.ts';
import type { OpenVolume } from '../../../sandbox/contract/open-volume.ts';
import { E2bError } from '../errors.ts';
import { E2B_LIMITS } from '../limits.ts';
import { type fileOwner, volumeEntry } from './schema.ts';

type Owner = z.infer<typeof fileOwner>;
type Entry = z.infer<typeof volumeEntry>;

/**
 * One step as root: `find`, `list`, `set` or `remove`. Links in the volume lead nowhere outside of it: the guest may be a
 * sandbox with other files, to which the token of a volume gives no right.
 */
const STEP = `
import json, os, shutil, stat, sys
from datetime import datetime, timezone

want = json.loads(sys.argv[1])
root = os.path.realpath(want["root"])
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}

def inside(at):
    if at != root and not at.startswith(root + "/"):
        raise FileNotFoundError(2, "it is not in the volume")
    return at

def place():
    path = os.path.normpath("/" + want["path"]).lstrip("/")
    if not path:
        return root
    head, name = os.path.split(path)
    at = os.path.join(inside(os.path.realpath(os.path.join(root, head))), name)
    return inside(os.path.realpath(at)) if want.get("follow") else at

def entry(at):
    facts = os.lstat(at)
    kind = KINDS.get(stat.S_IFMT(facts.st_mode), "unknown")
    time = lambda seconds: datetime.fromtimestamp(seconds, timezone.utc).isoformat()
    path = "/" if at == root else at[len(root):]
    found = {"name": os.path.basename(path), "path": path, "type": kind, "size": facts.st_size,
             "mode": stat.S_IMODE(facts.st_mode), "uid": facts.st_uid, "gid": facts.st_gid,
             "atime": time(facts.st_atime), "mtime": time(facts.st_mtime), "ctime": time(facts.st_ctime)}
    return {**found, "target": os.readlink(at)} if kind == "symlink" else found

def entries(at, depth):
    for name in sorted(os.listdir(at)):
        found = entry(os.path.join(at, name))
        yield found
        if depth > 1 and found["type"] == "directory":
            yield from entries(os.path.join(at, name), depth - 1)

def listed(at):
    found = []
    for one in entries(at, want["depth"]):
        found.append(one)
        if len(found) > want["most"]:
            raise OSError(7, "too many entries: list fewer layers")
    return found

def step():
    at = place()
    if want["step"] == "find":
        found = entry(at) if os.path.lexists(at) else None
        return {"at": at, "hasParent": os.path.isdir(os.path.dirname(at)), "entry": found}
    if want["step"] == "list":
        return listed(at)
    if want["step"] == "remove":
        if at == root:
            raise OSError(16, "it is the volume itself")
        shutil.rmtree(at) if entry(at)["type"] == "directory" else os.unlink(at)
        return None
    if "uid" in want or "gid" in want:
        os.chown(at, want.get("uid", -1), want.get("gid", -1), follow_symlinks=False)
    if "mode" in want and entry(at)["type"] != "symlink":
        os.chmod(at, want["mode"])
    return entry(at)

try:
    print(json.dumps({"answer": step()}))
except OSError as error:
    print(json.dumps({"errno": error.errno or 5, "why": error.strerror or "it failed"}))
`;

const answered = z.object({
  errno: z.number().optional(),
  why: z.string().max(1024).optional(),
  answer: z.unknown().optional(),
});
const place = z.object({ at: z.string().min(1), hasParent: z.boolean(), entry: volumeEntry.nullable() });
type Place = z.infer<typeof place>;

/** By Linux's error number: ENOENT and ENOTDIR; E2BIG; EBUSY, EEXIST and EROFS; ENOSPC. */
const STATUS: Readonly<Record<number, number>> = { 2: 404, 20: 404, 7: 413, 16: 409, 17: 409, 30: 409, 28: 507 };

/** Paths are absolute, `/` is the volume. @throws E2bError; GuestError */
export class VolumeTree {
  readonly #volume: OpenVolume;

  constructor(volume: OpenVolume) {
    this.#volume = volume;
  }

  async stat(path: string): Promise<Entry> {
    return (await this.#existing(path)).entry;
  }

  async list(path: string, depth: number): Promise<Entry[]> {
    const most = E2B_LIMITS.volumeEntriesMax;
    return await this.#step(path, z.array(volumeEntry).max(most), { step: 'list', follow: true, depth, most });
  }

  async set(path: string, owner: Owner): Promise<Entry> {
    return await this.#step(path, volumeEntry, { step: 'set', ...owner });
  }

  async remove(path: string): Promise<void> {
    await this.#step(path, z.null(), { step: 'remove' });
  }

  /** @param force also makes its parents, and accepts a directory that exists */
  async makeDirectory(path: string, force: boolean, owner: Owner): Promise<Entry> {
    const { at, hasParent, entry } = await this.#find(path);
    if (entry !== null && !(force && entry.type === 'directory')) throw new E2bError(409, `${path} exists`);
    if (!hasParent && !force) throw notThere(path);
    if (entry === null) await this.#volume.guest.files.makeDirectory(at, { asRoot: true });
    return await this.set(path, owner);
  }

  /** The content; whoever gets it must read or destroy it. */
  async read(path: string, signal: AbortSignal): Promise<Readable> {
    const { at, entry } = await this.#existing(path, true);
    if (entry.type !== 'file') throw new E2bError(400, `${path} is not a file`);
    return await this.#volume.guest.files.read(at, { asRoot: true, signal });
  }

  /** @param options.force replaces a file that exists */
  async write(
    path: string,
    content: AsyncIterable<Uint8Array>,
    { force, owner, signal }: { readonly force: boolean; readonly owner: Owner; readonly signal: AbortSignal },
  ): Promise<Entry> {
    const { at, entry } = await this.#find(path, true);
    if (entry !== null && entry.type !== 'file') throw new E2bError(400, `${path} is not a file`);
    if (entry !== null && !force) throw new E2bError(409, `${path} exists`, { remedy: 'set force to replace it' });
    await this.#volume.guest.files.write(at, content, { asRoot: true, signal });
    return await this.#step(path, volumeEntry, { step: 'set', follow: true, ...owner });
  }

  async #existing(path: string, follow = false): Promise<Place & { readonly entry: Entry }> {
    const { entry, ...found } = await this.#find(path, follow);
    if (entry === null) throw notThere(path);
    return { ...found, entry };
  }

  async #find(path: string, follow = false): Promise<Place> {
    return await this.#step(path, place, { step: 'find', follow });
  }

  async #step<T>(path: string, schema: z.ZodType<T>, how: object): Promise<T> {
    const { guest, root } = this.#volume;
    const process = await guest.python({
      script: { code: STEP },
      args: [JSON.stringify({ root, path, ...how })],
      user: 'root',
      stdin: false,
      waitWarm: false,
      timeoutMs: E2B_LIMITS.volumeStepMsMax,
    });
    const text = (stream: Readable) =>
      collect(stream, E2B_LIMITS.volumeAnswerBytesMax, () => new E2bError(413, `${path}: the answer is too large`));
    const output = Promise.all([text(process.stdout), text(process.stderr), process.exit]);
    const [stdout] = await output.finally(() => process.kill());
    const said = answered.safeParse(parsed(stdout.toString()));
    const { errno, why = 'it failed' } = said.data ?? {};
    if (errno !== undefined) throw new E2bError(STATUS[errno] ?? 400, `${path}: ${why}`);
    const answer = schema.safeParse(said.data?.answer);
    if (!answer.success) {
      throw new E2bError(502, `the sandbox that has the volume did not answer as expected`, {
        remedy: 'use the volume while no sandbox has it, or in one whose image has Python',
      });
    }
    return answer.data;
  }
}

const notThere = (path: string): E2bError => new E2bError(404, `${path} does not exist`);

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return null;
  }
}
