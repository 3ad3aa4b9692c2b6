/**
 * A directory of this machine that a copy writes below. Each component of a path below it is opened separately with
 * O_NOFOLLOW, and files are created relative to the descriptor of their directory: the equal of openat2(2) with
 * RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, which Node lacks. So a link below it never leads a write elsewhere, whether
 * an earlier copy left it or another program creates it meanwhile.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import {
  type FileHandle,
  lstat,
  mkdir,
  open,
  readlink,
  rename,
  rm,
  rmdir,
  symlink,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode, ifThere } from '../../base/errors.ts';
import { newSandboxId } from '../../base/ids.ts';
import type { Content } from './content.ts';
import { CopyError } from './transfer.ts';

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;

export class CopyTarget {
  readonly #dir: string;

  /** @param dir an existing directory; links in its own path are followed, since its owner names it */
  constructor(dir: string) {
    this.#dir = dir;
  }

  /**
   * Keeps an existing directory. @param mode without the bits of the umask. @returns true if it was created. @throws
   * CopyError `in_the_way`
   */
  async makeDirectory(path: string, mode = 0o700): Promise<boolean> {
    let isNew = true;
    await this.#inParent(path, async (at) => {
      try {
        await mkdir(at, { mode });
      } catch (error) {
        if (errorCode(error) !== 'EEXIST') throw error;
        if (!(await lstat(at)).isDirectory()) throw this.#inTheWay(path);
        isNew = false;
      }
    });
    return isNew;
  }

  /**
   * Writes all or nothing; an existing link is replaced, not followed.
   * @param openContent called once the target can be written, since an unread stream would stay open
   */
  writeFile(
    path: string,
    mode: number,
    openContent: () => AsyncIterable<Uint8Array> | Promise<AsyncIterable<Uint8Array>>,
  ): Promise<void> {
    return this.#replace(path, async (part) => {
      await using file = await open(part, 'wx', 0o600);
      await writeFile(file, await openContent());
      await file.chmod(mode & 0o777);
    });
  }

  makeLink(path: string, target: string): Promise<void> {
    return this.#replace(path, (part) => symlink(target, part));
  }

  /** Sets the permissions of a file, but no other mode bits. */
  async setFileMode(path: string, mode: number): Promise<void> {
    await this.#inParent(path, async (at) => {
      await using file = await open(at, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
      await file.chmod(mode & 0o777);
    });
  }

  /** Sets the permissions of a directory, but no other mode bits. */
  async setMode(path: string, mode: number): Promise<void> {
    await using directory = await this.#open(path.split('/'));
    await directory.chmod(mode & 0o777);
  }

  /** Removes a file, a link or an empty directory. A missing one counts as removed. */
  async remove(path: string, isDirectory: boolean): Promise<void> {
    await ifThere(this.#inParent(path, async (at) => await (isDirectory ? rmdir(at) : unlink(at))));
  }

  /** `null` if nothing is there. @throws CopyError `in_the_way` if a link or another type is there or on the way */
  async contentOf(path: string): Promise<Content | null> {
    let found: Content | null = null;
    const look = async (at: string): Promise<void> => {
      found = await this.#content(at, path);
    };
    await ifThere(this.#inParent(path, look));
    return found;
  }

  /** The content of a file; `null` if it is larger. */
  async readFile(path: string, bytesMax: number): Promise<Buffer | null> {
    let content: Buffer | null = null;
    await this.#inParent(path, async (at) => {
      await using file = await open(at, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
      const info = await file.stat();
      if (info.isFile() && info.size <= bytesMax) content = await file.readFile();
    });
    return content;
  }

  async #content(at: string, path: string): Promise<Content> {
    const info = await lstat(at);
    if (info.isSymbolicLink()) return { type: 'symlink', target: await readlink(at) };
    const mode = info.mode & 0o777;
    if (info.isDirectory()) return { type: 'directory', mode };
    if (!info.isFile()) throw this.#inTheWay(path);
    await using file = await open(at, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const chunk of file.createReadStream({ autoClose: false })) {
      hash.update(chunk);
      bytes += chunk.length;
    }
    return { type: 'file', mode, bytes, sha256: hash.digest('hex') };
  }

  async #replace(path: string, make: (part: string) => Promise<void>): Promise<void> {
    await this.#inParent(path, async (at, parent) => {
      const part = join(parent, `.${newSandboxId()}.part`);
      try {
        if (!(await isReplaceable(at))) throw this.#inTheWay(path, 'a file');
        await make(part);
        await rename(part, at);
      } catch (error) {
        await rm(part, { force: true });
        throw error;
      }
    });
  }

  /** @param use gets the path of the file and of its directory, both through the descriptor of the directory */
  async #inParent(path: string, use: (at: string, parent: string) => Promise<void>): Promise<void> {
    const components = path.split('/');
    const name = components.pop() ?? '';
    await using directory = await this.#open(components);
    const parent = `/proc/self/fd/${directory.fd}`;
    await use(join(parent, name), parent);
  }

  async #open(components: readonly string[]): Promise<FileHandle> {
    let directory = await open(this.#dir, O_RDONLY | O_DIRECTORY);
    let path = '';
    for (const component of components) {
      path = join(path, component);
      const parent = directory;
      try {
        directory = await open(`/proc/self/fd/${parent.fd}/${component}`, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      } catch (error) {
        const code = errorCode(error);
        throw code === 'ELOOP' || code === 'ENOTDIR' ? this.#inTheWay(path) : error;
      } finally {
        await parent.close();
      }
    }
    return directory;
  }

  #inTheWay(path: string, wanted = 'a directory'): CopyError {
    return new CopyError('in_the_way', `${join(this.#dir, path)} exists and is not ${wanted}`, {
      remedy: 'remove it, or choose another target',
    });
  }
}

/** True for nothing, a file or a link. A replaced device, such as /dev/null, would no longer be one. */
async function isReplaceable(path: string): Promise<boolean> {
  const info = await ifThere(lstat(path));
  return info === undefined || info.isFile() || info.isSymbolicLink();
}
