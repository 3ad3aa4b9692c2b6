/** What another user of the host, or a model server, does to the commands of the operator, who runs the daemon. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdir, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { daemonSocket, resolveHome } from '../../src/base/home.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { modulePath } from '../../src/base/module-path.ts';
import type { Notes } from '../proof.ts';
import { MARK, steers } from '../terminal.ts';

const MAIN = modulePath('../../src/cli/main.ts', import.meta.url);
const NOBODY = 65_534;
const COMMAND_MS_MAX = 20_000;
const OUTPUT_CHARACTERS_MAX = 100_000;
/** Longer than the path of a socket may be. */
const LONG = 100;

/** The text of a model server in commands of the operator. @param home of the daemon, which has the text */
export async function tryTerminals(notes: Notes, home: string, words: readonly (readonly string[])[]): Promise<void> {
  for (const command of words) {
    const output = await runCommand(home, command);
    const what = `\`neurovisor ${command.join(' ')}\` of the operator`;
    notes.same(`control: ${what} shows the hostile text`, MARK, output.includes(MARK) ? MARK : output);
    const seen = steers(output) ? 'a control character' : 'none';
    notes.same(`… with characters that steer a terminal`, 'none', seen);
  }
}

/**
 * A home with a long path has its run directory in the temporary directory, where anyone could have made it before.
 * @param isPrivate for tests: it is this user's own, and private
 */
export async function tryRunDirectory(notes: Notes, homes: string, isPrivate: boolean): Promise<void> {
  const home = resolveHome(join(homes, 'x'.repeat(LONG), newSandboxId()));
  await mkdir(home.dir, { recursive: true, mode: 0o700 });
  const tryHere = async (...words: readonly string[]): Promise<string> => {
    const output = await runCommand(home.dir, words);
    return output.includes('could not use the run directory') ? 'refused' : 'not refused';
  };
  notes.same('control: `neurovisor ls` in a home with a long path', 'not refused', await tryHere('ls'));
  await rm(home.runDir, { recursive: true, force: true });
  await mkdir(home.runDir, { mode: 0o700 });
  let connections = 0;
  const server = createServer((socket) => {
    connections += 1;
    socket.destroy();
  });
  await once(server.listen(daemonSocket(home)), 'listening');
  try {
    if (!isPrivate) {
      await chmod(home.runDir, 0o777);
      if (process.getuid?.() === 0) await chown(home.runDir, NOBODY, NOBODY);
    }
    // A daemon that starts would build an image.
    for (const command of isPrivate ? [['ls']] : [['ls'], ['serve', '--port', '0']]) {
      notes.same(
        `\`neurovisor ${command[0]}\` where another user made the run directory`,
        'refused',
        await tryHere(...command),
      );
    }
    notes.same('… its daemon.sock gets a connection', 'none', connections === 0 ? 'none' : `${connections}`);
  } finally {
    server.close();
    await rm(home.runDir, { recursive: true, force: true });
  }
}

/** @returns both streams of the command */
async function runCommand(home: string, words: readonly string[]): Promise<string> {
  const env = { ...process.env, NEUROVISOR_HOME: home, NEUROVISOR_URL: '' };
  const child = spawn(process.execPath, [MAIN, ...words], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const late = setTimeout(() => child.kill('SIGKILL'), COMMAND_MS_MAX);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (bytes: Buffer) => {
      output = (output + bytes.toString()).slice(0, OUTPUT_CHARACTERS_MAX);
    });
  }
  await once(child, 'close');
  clearTimeout(late);
  return output;
}
