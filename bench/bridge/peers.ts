/** Child processes of a benchmark that serve until its end. */
import { type ChildProcess, spawn } from 'node:child_process';
import type { CleanupStack } from '../../src/base/cleanup.ts';
import { modulePath } from '../../src/base/module-path.ts';

/** Starts `peer.ts`. @returns its place: a socket or a port of loopback */
export async function startPeer(cleanup: CleanupStack, args: readonly string[]): Promise<string> {
  const script = modulePath('./peer.ts', import.meta.url);
  const child = spawn(process.execPath, [script, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
  return await waitForPlace(cleanup, child, args[0] ?? '', /^ready (\S+)$/m);
}

/**
 * Resolves with the first group of `pattern` in the process's output, and kills the process at cleanup.
 * @throws with its last output, if it ends before
 */
export function waitForPlace(
  cleanup: CleanupStack,
  child: ChildProcess,
  name: string,
  pattern: RegExp,
): Promise<string> {
  cleanup.push(`${name} process`, async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = new Promise((resolve) => child.once('exit', resolve));
    if (child.kill('SIGKILL')) await exit;
  });
  let output = '';
  return new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (part: Buffer) => {
        output = (output + part.toString()).slice(-OUTPUT_CHARACTERS_MAX);
        const place = pattern.exec(output)?.[1];
        if (place !== undefined) resolve(place);
      });
    }
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      const tail = output.trim().slice(-TAIL_CHARACTERS_MAX);
      reject(new Error(`the ${name} process ended with ${code ?? signal}: ${tail}`));
    });
  });
}

const OUTPUT_CHARACTERS_MAX = 16_384;
const TAIL_CHARACTERS_MAX = 500;
