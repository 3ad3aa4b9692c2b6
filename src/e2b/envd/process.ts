/** `process.Process` of E2B's envd: programs and terminals. */
import { z } from 'zod';
import { describeError } from '../../base/errors.ts';
import type { Guest } from '../../guest/guest.ts';
import type { Call } from './call.ts';
import { keepAliveOf, timeoutOf } from './call.ts';
import { ConnectError, checked } from './connect.ts';
import type { Program, Programs } from './programs.ts';
import type { Outlet } from './service.ts';

const size = z.object({ cols: z.number().int().min(1), rows: z.number().int().min(1) });
const selector = z.object({ pid: z.number().int().optional(), tag: z.string().optional() });
const startRequest = z.object({
  process: z.object({
    cmd: z.string().min(1),
    args: z.array(z.string()).default([]),
    envs: z.record(z.string(), z.string()).default({}),
    cwd: z.string().optional(),
  }),
  pty: z.object({ size }).optional(),
  tag: z.string().max(256).optional(),
  stdin: z.boolean().default(true),
});
const input = z.object({ stdin: z.base64().optional(), pty: z.base64().optional() });

export class ProcessService {
  readonly #programs: Programs;

  constructor(programs: Programs) {
    this.#programs = programs;
  }

  async list(call: Call): Promise<unknown> {
    const guest = await call.guest();
    const processes = (await guest.processes()).map(({ pid, argv, cwd, tag }) => {
      const [cmd = '', ...args] = argv;
      return { config: { cmd, args, envs: {}, cwd }, pid, ...(tag === null ? {} : { tag }) };
    });
    return { processes };
  }

  async start(call: Call, message: unknown, outlet: Outlet): Promise<void> {
    const { process: wanted, pty, tag, stdin } = checked(startRequest, message);
    const timeoutMs = timeoutOf(call.request);
    const guest = await call.guest();
    const running = await guest.exec({
      argv: [wanted.cmd, ...wanted.args],
      env: wanted.envs,
      stdin,
      detached: true,
      ...(wanted.cwd === undefined ? {} : { cwd: wanted.cwd }),
      ...(call.user === undefined ? {} : { user: call.user }),
      ...(pty === undefined ? {} : { pty: pty.size }),
      ...(tag === undefined ? {} : { tag }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    });
    const program = this.#programs.add(call.id, running, pty !== undefined);
    await follow(call, program, outlet);
  }

  async connect(call: Call, message: unknown, outlet: Outlet): Promise<void> {
    const { process } = checked(z.object({ process: selector }), message);
    await follow(call, await this.#find(call, process), outlet);
  }

  async update(call: Call, message: unknown): Promise<unknown> {
    const schema = z.object({ process: selector, pty: z.object({ size }).optional() });
    const { process, pty } = checked(schema, message);
    const program = await this.#find(call, process);
    if (pty !== undefined) program.process.resize(pty.size);
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
    const schema = z.object({
      process: selector,
      signal: z.enum(['SIGNAL_SIGKILL', 'SIGNAL_SIGTERM']),
    });
    const { process, signal } = checked(schema, message);
    const guest = await call.guest();
    const pid = await pidOf(guest, process);
    const name = signal === 'SIGNAL_SIGKILL' ? 'SIGKILL' : 'SIGTERM';
    if (await guest.signal(pid, name)) return {};
    throw unknownProcess(process);
  }

  async #find(call: Call, process: z.infer<typeof selector>): Promise<Program> {
    const guest = await call.guest();
    return await this.#programs.get(call.id, await pidOf(guest, process), guest);
  }
}

async function pidOf(guest: Guest, process: z.infer<typeof selector>): Promise<number> {
  if (process.pid !== undefined) return process.pid;
  const found = (await guest.processes()).find(({ tag }) => tag !== null && tag === process.tag);
  if (found === undefined) throw unknownProcess(process);
  return found.pid;
}

const unknownProcess = ({ pid, tag }: z.infer<typeof selector>): ConnectError =>
  new ConnectError('not_found', `there is no process ${pid ?? `with the tag ${tag ?? ''}`}`);

async function write({ process }: Program, given: z.infer<typeof input>): Promise<void> {
  const bytes = Buffer.from(given.stdin ?? given.pty ?? '', 'base64');
  const { stdin } = process;
  if (stdin.destroyed || stdin.writableEnded) {
    throw new ConnectError('failed_precondition', 'the input of the process is closed');
  }
  await new Promise<void>((resolve, reject) => {
    stdin.write(bytes, (error) => (error == null ? resolve() : reject(error)));
  });
}

/** Sends the program's events until it ends or the client goes. */
async function follow(call: Call, program: Program, outlet: Outlet): Promise<void> {
  outlet.keepAlive(keepAliveOf(call.request), { event: { keepalive: {} } });
  const stop = program.listen((event) => outlet.send({ event }));
  try {
    await outlet.send({ event: { start: { pid: program.pid } } });
    const end = await Promise.race([program.ended, outlet.gone]);
    if (end !== undefined) await outlet.send({ event: { end } });
  } catch (error) {
    if (error instanceof ConnectError) throw error;
    throw new ConnectError('unavailable', `the process can't be followed: ${describeError(error)}`);
  } finally {
    stop();
  }
}
