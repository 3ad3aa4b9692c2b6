/** `process.Process` of E2B's envd: programs and terminals. */
import { z } from 'zod';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Guest, Process, RunOptions } from '../../../machine/guest/guest.ts';
import { REQUEST_LIMITS } from '../../../sandbox/contract/limits.ts';
import { list, record } from '../../../sandbox/contract/schema/values.ts';
import { isGuestError } from '../../rest/errors.ts';
import { marksOf } from '../kept.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { Call } from './call.ts';
import { keepAliveOf, timeoutOf } from './call.ts';
import { ConnectError, checked } from './connect.ts';
import { isUnknownUser } from './failures.ts';
import { type Command, type Program, type Programs, TIMED_OUT } from './programs.ts';
import type { Outlet } from './service.ts';

/** proto3 leaves out zeros, which clients send when they don't know their terminal's size. */
const side = (usual: number) =>
  z
    .number()
    .int()
    .min(0)
    .default(0)
    .transform((cells) => (cells === 0 ? usual : cells));
const terminal = z.object({ size: z.object({ cols: side(80), rows: side(24) }).prefault({}) }).optional();
const selector = z.object({ pid: z.number().int().optional(), tag: z.string().optional() });
type Selector = z.infer<typeof selector>;
const startRequest = z.object({
  process: z.object({
    cmd: z.string().min(1),
    args: list(z.string(), REQUEST_LIMITS.argumentsMax).default([]),
    envs: record(z.string(), z.string(), REQUEST_LIMITS.programVariablesMax).default({}),
    cwd: z.string().optional(),
  }),
  pty: terminal,
  tag: z.string().max(256).optional(),
  stdin: z.boolean().default(true),
});
const updateRequest = z.object({ process: selector, pty: terminal });
const input = z.object({ stdin: z.base64().optional(), pty: z.base64().optional() });

export class ProcessService {
  readonly #programs: Programs;
  readonly #clock: Clock;

  constructor(programs: Programs, clock: Clock) {
    this.#programs = programs;
    this.#clock = clock;
  }

  async list(call: Call): Promise<unknown> {
    const guest = await call.guest();
    const processes = (await guest.processes()).map(({ pid, argv, cwd, tag }) => {
      const [cmd = '', ...args] = argv;
      const program = this.#programs.find(call.id, pid);
      const known = program?.hasExited === false ? program.facts.command : null;
      const config = known === null ? { cmd, args, envs: {}, cwd } : { cwd, ...known };
      return { config, pid, ...(tag === null ? {} : { tag }) };
    });
    return { processes };
  }

  async start(call: Call, message: unknown, outlet: Outlet): Promise<void> {
    const { process: command, pty, tag, stdin } = checked(startRequest, message);
    const timeoutMs = timeoutOf(call.request);
    const guest = await call.guest();
    const running = await exec(call, guest, command, {
      stdin,
      ...(pty === undefined ? {} : { pty: pty.size }),
      ...(tag === undefined ? {} : { tag }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    });
    const isShort = JSON.stringify(command).length <= E2B_LIMITS.commandCharactersMax;
    const program = this.#programs.add(call.id, running, {
      isTerminal: pty !== undefined,
      tag: tag ?? null,
      hasInput: stdin || pty !== undefined,
      command: isShort ? kept(command) : null,
    });
    await follow(call, program, outlet, this.#clock);
  }

  async connect(call: Call, message: unknown, outlet: Outlet): Promise<void> {
    const { process } = checked(z.object({ process: selector }), message);
    await follow(call, await this.#find(call, process), outlet, this.#clock);
  }

  async update(call: Call, message: unknown): Promise<unknown> {
    const { process, pty } = checked(updateRequest, message);
    const program = await this.#find(call, process);
    if (pty === undefined) return {};
    if (!program.facts.isTerminal) {
      throw new ConnectError('failed_precondition', 'the process has no terminal');
    }
    // Awaited, so that input sent next by the client finds the new size.
    await program.process.resize(pty.size);
    return {};
  }

  async sendInput(call: Call, message: unknown): Promise<unknown> {
    const schema = z.object({ process: selector, input });
    const { process, input: given } = checked(schema, message);
    await write(await this.#find(call, process), given);
    return {};
  }

  async streamInput(call: Call, messages: AsyncIterable<unknown>): Promise<unknown> {
    const schema = z.object({
      start: z.object({ process: selector }).optional(),
      data: z.object({ input }).optional(),
    });
    let program: Program | undefined;
    for await (const message of messages) {
      const { start, data } = checked(schema, message);
      if (start !== undefined) program = await this.#find(call, start.process);
      if (data === undefined) continue;
      if (program === undefined) {
        throw new ConnectError('invalid_argument', 'the first message must be `start`');
      }
      await write(program, data.input);
    }
    return {};
  }

  async closeStdin(call: Call, message: unknown): Promise<unknown> {
    const { process } = checked(z.object({ process: selector }), message);
    (await this.#find(call, process)).process.stdin.end();
    return {};
  }

  async sendSignal(call: Call, message: unknown): Promise<unknown> {
    const schema = z.object({ process: selector, signal: z.enum(['SIGNAL_SIGKILL', 'SIGNAL_SIGTERM']) });
    const { process, signal } = checked(schema, message);
    const guest = await call.guest();
    const pid = await this.#pidOf(call, guest, process, 'running');
    const name = signal === 'SIGNAL_SIGKILL' ? 'SIGKILL' : 'SIGTERM';
    if (await guest.signal(pid, name)) return {};
    throw unknownProcess(process);
  }

  async #find(call: Call, process: Selector): Promise<Program> {
    const guest = await call.guest();
    const pid = await this.#pidOf(call, guest, process, 'any');
    try {
      return await this.#programs.get(call.id, pid, guest);
    } catch (error) {
      if (isGuestError(error) && error.code === 'not_found') throw unknownProcess(process);
      throw error;
    }
  }

  /** @param which `running` for a signal, which must not reach the program that reuses an ended one's pid */
  async #pidOf(call: Call, guest: Guest, process: Selector, which: 'running' | 'any'): Promise<number> {
    const { pid, tag } = process;
    if (pid !== undefined) return pid;
    if (tag === undefined) {
      throw new ConnectError('invalid_argument', 'the process is named by no pid and no tag');
    }
    const known = this.#programs.tagged(call.id, tag);
    if (known?.hasExited === false) return known.pid;
    const found = (await guest.processes()).find((one) => one.tag === tag);
    if (found !== undefined) return found.pid;
    if (known !== undefined && which === 'any') return known.pid;
    throw unknownProcess(process);
  }
}

/** @throws ConnectError `invalid_argument` for a missing working directory; GuestError */
async function exec(
  call: Call,
  guest: Guest,
  command: z.infer<typeof startRequest>['process'],
  options: Pick<RunOptions, 'stdin' | 'pty' | 'tag' | 'timeoutMs'>,
): Promise<Process> {
  const { cmd, args, envs, cwd } = command;
  const user = call.user === undefined ? {} : { user: call.user };
  try {
    return await guest.exec({
      ...options,
      ...user,
      argv: [cmd, ...args],
      env: { ...marksOf(call.id, call.template), ...envs },
      detached: true,
      ...(isGiven(cwd) ? { cwd } : {}),
    });
  } catch (error) {
    if (isGuestError(error) && error.code === 'not_found' && !isUnknownUser(error) && isGiven(cwd)) {
      const exists = await guest.files.stat(cwd, user).then(
        () => true,
        (reason: unknown) => !isGuestError(reason) || reason.code !== 'not_found',
      );
      const message = `cwd '${cwd}' does not exist`;
      if (!exists) throw new ConnectError('invalid_argument', message, { cause: error });
    }
    throw error;
  }
}

const isGiven = (text: string | undefined): text is string => text !== undefined && text !== '';

function kept({ cmd, args, envs, cwd }: z.infer<typeof startRequest>['process']): Command {
  return { cmd, args, envs, ...(isGiven(cwd) ? { cwd } : {}) };
}

const unknownProcess = ({ pid, tag }: Selector): ConnectError =>
  new ConnectError(
    'not_found',
    pid === undefined ? `process with tag ${tag ?? ''} not found` : `process with pid ${pid} not found`,
  );

async function write({ process, facts }: Program, given: z.infer<typeof input>): Promise<void> {
  const bytes = Buffer.from(given.stdin ?? given.pty ?? '', 'base64');
  const { stdin } = process;
  if (!facts.hasInput) {
    throw new ConnectError('failed_precondition', 'the process was started without input');
  }
  if (stdin.writableLength > E2B_LIMITS.inputBytesMax) {
    throw new ConnectError('resource_exhausted', 'the process does not read its input');
  }
  if (stdin.destroyed || stdin.writableEnded) {
    throw new ConnectError('failed_precondition', 'the input of the process is closed');
  }
  await new Promise<void>((resolve, reject) => {
    stdin.write(bytes, (error) => (error == null ? resolve() : reject(error)));
  });
}

/** Sends the program's events until it ends, the client leaves, or the client's timeout expires. */
async function follow(call: Call, program: Program, outlet: Outlet, clock: Clock): Promise<void> {
  const timeoutMs = timeoutOf(call.request);
  const late = Promise.withResolvers<typeof TIMED_OUT>();
  const dropped = Promise.withResolvers<never>();
  dropped.promise.catch((error: unknown) => ignore(error, 'the race below reports it'));
  const stopTimer = timeoutMs === undefined ? () => undefined : clock.after(timeoutMs, () => late.resolve(TIMED_OUT));
  outlet.keepAlive(keepAliveOf(call.request), { event: { keepalive: {} } });
  const stop = program.listen({
    take: (event) => outlet.send({ event }),
    onDropped: () => {
      const message = 'the client takes no output, and others wait for it: connect again';
      dropped.reject(new ConnectError('resource_exhausted', message));
    },
  });
  try {
    await Promise.race([outlet.send({ event: { start: { pid: program.pid } } }), dropped.promise, late.promise]);
    const end = await Promise.race([program.ended, outlet.gone, late.promise, dropped.promise]);
    if (end === TIMED_OUT) throw new ConnectError('deadline_exceeded', 'the time of the call is over');
    if (end !== undefined) await outlet.send({ event: { end } });
  } catch (error) {
    if (error instanceof ConnectError) throw error;
    throw new ConnectError('unavailable', `the process can't be followed: ${describeError(error)}`);
  } finally {
    stop();
    stopTimer();
  }
}
