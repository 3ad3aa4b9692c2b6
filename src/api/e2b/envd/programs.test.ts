import { PassThrough } from 'node:stream';
import { setImmediate as tick } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { EXIT } from '../../../../test/support/process-exit.ts';
import { FakeClock } from '../../../base/clock.ts';
import type { Guest, Process, ProcessExit } from '../../../machine/guest/guest.ts';
import { E2B_LIMITS } from '../limits.ts';
import { Program, type ProgramEvent, Programs } from './programs.ts';

const FACTS = { isTerminal: false, tag: null, hasInput: true, command: null };
function start() {
  const clock = new FakeClock();
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const exit = Promise.withResolvers<ProcessExit>();
  const process: Process = {
    pid: 7,
    warm: false,
    stdin: new PassThrough(),
    stdout,
    stderr,
    resize: async () => undefined,
    kill: () => undefined,
    exit: exit.promise,
  };
  const end = (): void => {
    stdout.end();
    stderr.end();
    exit.resolve(EXIT);
  };
  return { clock, process, stdout, end, program: new Program(process, FACTS, clock) };
}

function reader() {
  const events: ProgramEvent[] = [];
  const take = async (event: ProgramEvent): Promise<void> => {
    events.push(event);
    await Promise.resolve();
  };
  return { events, take, onDropped: () => expect.unreachable('it reads') };
}

/** Takes one event, and the next one only after `read` is called. */
function stalled() {
  const gate = Promise.withResolvers<void>();
  const seen = { events: 0, isDropped: false };
  const take = async (): Promise<void> => {
    seen.events += 1;
    await gate.promise;
  };
  const onDropped = (): void => {
    seen.isDropped = true;
  };
  return { seen, read: gate.resolve, take, onDropped };
}

describe('Program', () => {
  it('drops a listener that never reads, so that the others lose nothing', async () => {
    const { clock, stdout, end, program } = start();
    const good = reader();
    const deaf = stalled();
    program.listen(good);
    program.listen(deaf);
    stdout.write('a');
    await tick();
    stdout.write('b');
    await tick();
    // Nothing accumulates for the listener that does not read.
    expect([good.events.length, deaf.seen.events]).toEqual([1, 1]);
    clock.advance(E2B_LIMITS.listenerStallMs);
    end();
    expect(await program.ended).toMatchObject({ exitCode: 0 });
    expect([deaf.seen, good.events.length]).toEqual([{ events: 1, isDropped: true }, 2]);
  });

  it('waits for its only listener without a limit', async () => {
    const { clock, stdout, end, program } = start();
    const slow = stalled();
    program.listen(slow);
    stdout.write('a');
    await tick();
    stdout.write('b');
    clock.advance(100 * E2B_LIMITS.listenerStallMs);
    await tick();
    expect(slow.seen).toEqual({ events: 1, isDropped: false });
    slow.read();
    end();
    await program.ended;
    expect(slow.seen.events).toBe(2);
  });

  it('sends large output in pieces', async () => {
    const { stdout, end, program } = start();
    const good = reader();
    program.listen(good);
    stdout.end(Buffer.alloc(E2B_LIMITS.chunkBytesMax.stdio * 2 + 1));
    await tick();
    end();
    await program.ended;
    const sizes = good.events.map((event) =>
      'data' in event ? Buffer.from(event.data.stdout ?? '', 'base64').length : 0,
    );
    expect(Math.max(...sizes)).toBeLessThanOrEqual(E2B_LIMITS.chunkBytesMax.stdio);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(E2B_LIMITS.chunkBytesMax.stdio * 2 + 1);
  });
});

describe('Programs', () => {
  it('attaches once for two concurrent clients: a second attachment would take the streams', async () => {
    const { clock, process } = start();
    let attached = 0;
    const guest: Pick<Guest, 'attach' | 'processes'> = {
      processes: async () => [],
      attach: async () => {
        attached += 1;
        await tick();
        return process;
      },
    };
    const programs = new Programs(clock);
    const get = (): Promise<Program> => programs.get('a', 7, guest);
    const [one, two] = await Promise.all([get(), get()]);
    expect([one === two, attached]).toEqual([true, 1]);
  });

  it('does not confuse a new program with the ended one whose pid it reuses', async () => {
    const { process, end, clock } = start();
    const other = start();
    const running: { pid: number; tag: null; pty: boolean }[] = [];
    const guest = { processes: async () => running, attach: async () => other.process } as unknown as Pick<
      Guest,
      'attach' | 'processes'
    >;
    const programs = new Programs(clock);
    const first = programs.add('a', process, FACTS);
    expect(first.hasExited).toBe(false);
    end();
    await first.ended;
    expect(first.hasExited).toBe(true);
    // A client that returns still gets its end.
    expect(await programs.get('a', 7, guest)).toBe(first);
    running.push({ pid: 7, tag: null, pty: false });
    const second = await programs.get('a', 7, guest);
    expect(second.process).toBe(other.process);
    // Expiry of the first program does not remove the second.
    clock.advance(E2B_LIMITS.exitKeptMs);
    expect(programs.find('a', 7)).toBe(second);
  });

  it('forgets the programs of an ended sandbox, and no others', () => {
    const { process, clock } = start();
    const programs = new Programs(clock);
    programs.add('a', process, FACTS);
    const other = programs.add('ab', process, FACTS);
    programs.forget('a');
    expect([programs.find('a', 7), programs.find('ab', 7)]).toEqual([undefined, other]);
  });
});
