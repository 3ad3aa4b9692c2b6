/**
 * Sandboxes at work while the processes that hold them are killed and stopped at random, by a seed:
 *
 *     this process ─┬─ lanes, each with a sandbox and a promise about it
 *                   └─ faults ──► launcher ─► daemon ─► VMMs
 *
 * What a lane cannot reach it asks again, as clients do. A sandbox may end only if a fault explains it.
 */
import { createHash } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectDaemon, type RemoteControlPlane } from '../../src/api/client/client.ts';
import { describeError, errorCode } from '../../src/base/errors.ts';
import { daemonSocket, resolveHome } from '../../src/base/home.ts';
import { MIB } from '../../src/base/units.ts';
import type { Guest } from '../../src/machine/guest/guest.ts';
import type { CreateRequest } from '../../src/sandbox/contract/control.ts';
import { type DaemonHome, type DaemonProcess, daemonOf, leftIn, pidsOfVmm } from './daemon.ts';
import { completion, sendJson } from './mock-upstream.ts';
import { randomFrom } from './run-seed.ts';

export interface ChaosOptions {
  readonly home: DaemonHome;
  readonly seed: number;
  /** Duration of the faults. */
  readonly ms: number;
  /** A directory of the home with a file system of its own, which gets full now and then. */
  readonly fills?: string;
  progress?(line: string): void;
}

export interface ChaosReport {
  /** Number of each fault. */
  readonly faults: ReadonlyMap<string, number>;
  /** Number of kept promises that were looked at, by lane. */
  readonly checks: ReadonlyMap<string, number>;
  /** Milliseconds in which no daemon answered, of each fault. */
  readonly gapsMs: readonly number[];
  readonly failures: readonly string[];
  readonly left: readonly string[];
  /** The end of the daemons' output. */
  readonly log: string;
}

/** What a client meets while a daemon is away or a sandbox changes its process. */
const AGAIN = new Set([
  'daemon_unreachable',
  'daemon_lost',
  'connection_lost',
  'answer_invalid',
  'suspended',
  'cancelled',
  'busy',
  'not_ready',
  'in_use',
  'disk_full',
  'snapshot_failed',
]);
/** For what hangs, not for what is slow. */
const AGAIN_MS_MAX = 120_000;
const KILL = 'kill the daemon';
/** What a budget may forget of a killed daemon: the use of its last 2 s. */
const LOST_REQUESTS_MAX = 12;

class Ended extends Error {}

class Chaos {
  readonly #options: ChaosOptions;
  readonly #random: () => number;
  readonly #faults = new Map<string, number>();
  readonly #checks = new Map<string, number>();
  readonly #gapsMs: number[] = [];
  readonly #failures: string[] = [];
  /** When all VMs, or one, were killed: what may end then. */
  readonly #killed = new Set<string>();
  readonly #live = new Set<string>();
  #deaths = 0;
  #launcher: DaemonProcess;
  #logs = '';
  #control: RemoteControlPlane | undefined;
  #isOver = false;

  constructor(options: ChaosOptions) {
    this.#options = options;
    this.#random = randomFrom(options.seed);
    this.#launcher = this.#launch();
  }

  async run(): Promise<ChaosReport> {
    const { home, ms } = this.#options;
    await this.#launcher.ready();
    const work = [this.#counter(), this.#stream(), this.#models(), this.#saves(), this.#victim()];
    const lanes = [...work, this.#volume(), this.#port()];
    const watched = lanes.map((lane) => lane.catch((error: unknown) => this.#fails(describeError(error))));
    const endMs = performance.now() + ms;
    while (performance.now() < endMs && this.#failures.length === 0) await this.#fault();
    this.#isOver = true;
    await Promise.all(watched);
    await this.#use(async (control) => {
      for (const { id } of await control.list()) await removed(control, id);
      for (const { id } of await control.snapshots()) await control.removeSnapshot(id);
      for (const { name } of await control.volumes()) await control.removeVolume(name);
    });
    await this.#control?.[Symbol.asyncDispose]();
    this.#launcher.kill('SIGTERM');
    const status = await this.#launcher.ended;
    if (status !== 0) this.#fails(`the launcher ended ${status}`);
    this.#keepLog();
    return {
      faults: this.#faults,
      checks: this.#checks,
      gapsMs: this.#gapsMs,
      failures: this.#failures,
      left: await leftIn(home),
      log: this.#logs.slice(-20_000),
    };
  }

  #launch(): DaemonProcess {
    return this.#options.home.launched('-o', 'json', '--pool', '0', '--on-stop', 'pause');
  }

  #keepLog(): void {
    this.#logs += this.#launcher.stderr();
  }

  #fails(what: string): void {
    this.#failures.push(what);
    this.#options.progress?.(`FAILED: ${what}`);
  }

  #checked(lane: string): void {
    this.#checks.set(lane, (this.#checks.get(lane) ?? 0) + 1);
  }

  /** Asks until a daemon answers. @throws Ended the sandbox has ended, of which a fault was the cause */
  async #use<T>(body: (control: RemoteControlPlane) => Promise<T>, id?: string): Promise<T> {
    const socketPath = daemonSocket(resolveHome(this.#options.home.dir));
    const met = new Map<string, number>();
    for (let deadline = 0; ; await sleep(100)) {
      const beganMs = performance.now();
      try {
        this.#control ??= await connectDaemon({ socketPath });
        return await body(this.#control);
      } catch (error) {
        const code = errorCode(error);
        if (code === 'gone' || code === 'not_found') {
          if (id !== undefined && this.#killed.has(id)) throw new Ended();
          throw new Error(`sandbox ${id} has ended without a fault: ${describeError(error)}`);
        }
        const nowMs = performance.now();
        // What was there for a while is lost anew.
        if (deadline === 0 || nowMs > beganMs + AGAIN_MS_MAX / 10) deadline = nowMs + AGAIN_MS_MAX;
        if (!AGAIN.has(code ?? '')) throw error;
        const what = describeError(error);
        met.set(what, (met.get(what) ?? 0) + 1);
        if (nowMs > deadline) throw new Error(`nothing but ${JSON.stringify([...met])}`, { cause: error });
        if (code === 'daemon_unreachable' || code === 'daemon_lost') this.#control = undefined;
      }
    }
  }

  async #create(request: CreateRequest): Promise<string> {
    const { id } = await this.#use((control) => control.create(request));
    this.#live.add(id);
    return id;
  }

  #exec(id: string, command: string): Promise<string> {
    return this.#use(async (control) => {
      const guest = await control.guest(id);
      const process = await guest.exec({ argv: ['sh', '-c', command] });
      const parts: Buffer[] = [];
      for await (const part of process.stdout) parts.push(part as Buffer);
      const { exitCode } = await process.exit;
      if (exitCode !== 0) throw new Error(`${command} ended ${exitCode}`);
      return Buffer.concat(parts).toString().trimEnd();
    }, id);
  }

  async #detach(id: string, command: string): Promise<number> {
    return await this.#use(async (control) => {
      const guest = await control.guest(id);
      const process = await guest.exec({ argv: ['sh', '-c', command], detached: true });
      process.exit.catch(() => undefined);
      return process.pid;
    }, id);
  }

  /** Runs a lane's sandbox again and again, as faults end it. */
  async #lane(
    name: string,
    life: (id: string, checked: () => void) => Promise<void>,
    more: CreateRequest = {},
  ): Promise<void> {
    while (!this.#isOver) {
      const id = await this.#create({ timeoutMs: 3_600_000, metadata: { lane: name }, ...more });
      try {
        await life(id, () => this.#checked(name));
      } catch (error) {
        if (!(error instanceof Ended)) throw new Error(`${name} ${id}: ${describeError(error)}`, { cause: error });
      }
    }
  }

  /** A program that counts in memory goes on in the same boot. */
  #counter(): Promise<void> {
    return this.#lane('counter', async (id, checked) => {
      await this.#detach(id, 'i=0; while :; do i=$((i + 1)); echo $i > n.new; mv n.new n; sleep 0.1; done');
      const boot = await this.#exec(id, 'until [ -e n ]; do sleep 0.1; done; cat /proc/sys/kernel/random/boot_id');
      for (let last = 0; !this.#isOver; await sleep(500)) {
        const [now = '', count = ''] = (await this.#exec(id, 'cat /proc/sys/kernel/random/boot_id n')).split('\n');
        if (now !== boot) throw new Error('it was booted again');
        if (Number(count) < last || (await this.#stands(id, last, Number(count))))
          throw new Error(`${count} after ${last}`);
        last = Number(count);
        checked();
      }
    });
  }

  /** Whether the counter has stopped. */
  async #stands(id: string, last: number, count: number): Promise<boolean> {
    if (count !== last) return false;
    await sleep(2000);
    return Number(await this.#exec(id, 'cat n')) === last;
  }

  /** Each line of a program arrives once, and in order. */
  #stream(): Promise<void> {
    return this.#lane('stream', async (id, checked) => {
      const pid = await this.#detach(id, 'i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done');
      let text = '';
      let next = 1;
      let offset = 0;
      const take = (part: Buffer): void => {
        offset += part.length;
        text += part.toString();
        const lines = text.split('\n');
        text = lines.pop() ?? '';
        for (const line of lines) {
          if (Number(line) !== next) throw new Error(`line ${line} instead of ${next}`);
          next += 1;
          checked();
        }
      };
      while (!this.#isOver) {
        await this.#use(async (control) => {
          const guest = await control.guest(id);
          const process = await guest.attach(pid, { from: { stdout: offset, stderr: 0 } });
          process.exit.catch(() => undefined);
          if (process.from !== undefined && process.from.stdout !== offset) {
            throw new Error(`output from ${process.from.stdout}, expected ${offset}`);
          }
          for await (const part of process.stdout) {
            take(part as Buffer);
            if (this.#isOver) break;
          }
          process.stdout.destroy();
        }, id);
      }
    });
  }

  /** Answers that the guest got, what was served and what the budget has differ by no more than what was lost under way. */
  #models(): Promise<void> {
    const { upstream } = this.#options.home;
    let served = 0;
    upstream.answer((_, response) => {
      served += 1;
      sendJson(response, 200, completion('hello'));
    });
    const ask =
      `python3 -c 'import json, os, urllib.request, time\n` +
      `body = json.dumps({"model": "m1", "messages": [{"role": "user", "content": "hi"}]}).encode()\n` +
      `where = os.environ["OPENAI_BASE_URL"] + "/chat/completions"\n` +
      `head = {"content-type": "application/json"}\n` +
      `while True:\n` +
      `  try:\n` +
      `    urllib.request.urlopen(urllib.request.Request(where, body, head), timeout=60).read()\n` +
      `    print("ok", flush=True)\n` +
      `  except urllib.error.HTTPError as error:\n` +
      `    print("refused", error.code, error.read().decode(), flush=True)\n` +
      `  except OSError as error:\n` +
      `    print("lost", error, flush=True)\n` +
      `  time.sleep(0.2)\n' > answers`;
    return this.#lane(
      'models',
      async (id, checked) => {
        const before = served;
        await this.#detach(id, ask);
        let last = 0;
        for (; !this.#isOver; await sleep(1000)) {
          const answers = (await this.#exec(id, 'cat answers 2>/dev/null || true')).split('\n');
          const good = answers.filter((line) => line === 'ok').length;
          const wrong = answers.find((line) => line.startsWith('refused') && !/"type"/.test(line));
          if (wrong !== undefined) throw new Error(`an untyped error: ${wrong}`);
          if (good < last || good > served - before)
            throw new Error(`${good} answers of ${served - before}, after ${last}`);
          if (good > last) checked();
          last = good;
        }
        const used = (await this.#use((control) => control.get(id), id)).modelUse.used?.requests ?? 0;
        const lost = LOST_REQUESTS_MAX * (this.#faults.get(KILL) ?? 0);
        const sent = served - before;
        if (used > sent + 1 || used < last - lost)
          throw new Error(`${used} of ${sent} requests counted, ${last} answered`);
      },
      { models: { budget: { requests: 1_000_000 } } },
    );
  }

  /** Files and memory of saves, resumes and forks are whole. */
  #saves(): Promise<void> {
    const random = randomFrom(this.#options.seed + 1);
    return this.#lane('saves', async (id, checked) => {
      const digestOf = (content: string): string => createHash('sha256').update(content).digest('hex');
      for (let turn = 1; !this.#isOver; turn += 1) {
        const content = `${turn}\n`.repeat(1000 + Math.floor(random() * 10_000));
        await this.#use(async (control) => (await control.guest(id)).files.write('data', content), id);
        const deed = random();
        if (deed < 0.4) await this.#use((control) => control.pause(id, deed < 0.2 ? 'disk' : 'memory'), id);
        else if (deed < 0.7) await this.#fork(id, digestOf(content));
        else await sleep(500);
        const [digest = ''] = (await this.#exec(id, 'sha256sum data')).split(' ');
        if (digest !== digestOf(content)) throw new Error(`file ${turn} has changed`);
        checked();
      }
    });
  }

  /** What a guest has synced to a volume is there, also for the next sandbox that has it. */
  async #volume(): Promise<void> {
    const name = 'kept';
    await this.#use((control) => ifTaken(control.createVolume({ name, sizeMib: 64 })));
    let synced = 0;
    await this.#lane(
      'volume',
      async (id, checked) => {
        for (; !this.#isOver; await sleep(500)) {
          const found = Number(await this.#exec(id, 'cat /data/n 2>/dev/null || echo 0'));
          // A write whose answer was lost has happened, or not.
          if (found !== synced && found !== synced + 1) throw new Error(`the volume has ${found} instead of ${synced}`);
          checked();
          const next = found + 1;
          synced = found;
          await this.#exec(id, `echo ${next} > /data/new && sync && mv /data/new /data/n && sync`);
          synced = next;
        }
      },
      { volumes: [{ name, path: '/data' }] },
    );
  }

  /** A server in the guest answers at its port, in the same process. */
  #port(): Promise<void> {
    const server =
      `python3 -c 'import http.server, os\n` +
      `class Handler(http.server.BaseHTTPRequestHandler):\n` +
      `  def do_GET(self):\n` +
      `    self.send_response(200)\n` +
      `    self.end_headers()\n` +
      `    self.wfile.write(b"pid %d " % os.getpid() + b"x" * 100000 + b" end")\n` +
      `http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()\n'`;
    return this.#lane('port', async (id, checked) => {
      await this.#detach(id, server);
      await this.#exec(
        id,
        'until python3 -c "import socket; socket.create_connection((\'127.0.0.1\', 8000))"; do sleep 0.2; done 2>/dev/null',
      );
      let first: string | undefined;
      let cut = 0;
      for (; !this.#isOver; await sleep(300)) {
        const answer = await this.#use(async (control) => await askPort(await control.guest(id), 8000), id);
        // A connection that a killed daemon had looks like one that the guest has closed.
        if (!answer.endsWith(' end')) {
          if (++cut > this.#faultCount) throw new Error(`half an answer, ${cut} times: ${answer.length} bytes`);
          continue;
        }
        const [, pid] = /\r\n\r\npid (\d+) x{100000} end$/.exec(answer) ?? [];
        if (pid === undefined) throw new Error(`another answer: ${answer.slice(0, 200)}`);
        first ??= pid;
        if (pid !== first) throw new Error(`another process answers: ${pid} instead of ${first}`);
        checked();
      }
    });
  }

  async #fork(id: string, digest: string): Promise<void> {
    const [copy] = await this.#use((control) => control.fork(id, { count: 1 }), id);
    if (copy?.ok !== true) return;
    const other = copy.sandbox.id;
    this.#live.add(other);
    if (this.#killed.has(id)) this.#killed.add(other);
    const [found = ''] = (await this.#exec(other, 'sha256sum data')).split(' ');
    if (found !== digest) throw new Error('the fork has another file');
    await this.#use((control) => removed(control, other), other);
  }

  /** A VMM that is killed ends its sandbox, which says so. */
  #victim(): Promise<void> {
    return this.#lane('victim', async (id, checked) => {
      await this.#exec(id, 'true');
      while (!this.#isOver && this.#random() > 0.1) await sleep(1000);
      const [pid] = await pidsOfVmm(this.#options.home.runDir, id);
      if (this.#isOver || pid === undefined) return;
      this.#killed.add(id);
      process.kill(pid, 'SIGKILL');
      this.#counted('kill a VMM');
      for (const deadline = performance.now() + AGAIN_MS_MAX; ; await sleep(200)) {
        const info = await this.#use((control) => control.get(id), id);
        if (info.status === 'ended') break;
        if (info.status === 'running' && (await this.#hasAnother(id, pid))) {
          // A stop had saved it before; the next daemon resumed it.
          await this.#use((control) => removed(control, id), id);
          break;
        }
        if (performance.now() > deadline) throw new Error(`it is ${info.status} without its VMM ${pid}`);
      }
      checked();
    });
  }

  /** Whether a sandbox works in another VMM than the one that was killed. */
  async #hasAnother(id: string, killed: number): Promise<boolean> {
    const [pid] = await pidsOfVmm(this.#options.home.runDir, id);
    return pid !== undefined && pid !== killed && (await this.#exec(id, 'echo works')) === 'works';
  }

  get #faultCount(): number {
    return [...this.#faults.values()].reduce((sum, count) => sum + count, 0);
  }

  #counted(fault: string): void {
    this.#faults.set(fault, (this.#faults.get(fault) ?? 0) + 1);
    this.#options.progress?.(fault);
  }

  async #fault(): Promise<void> {
    await sleep(7000 + this.#random() * 8000);
    const daemon = daemonOf(this.#launcher.pid);
    if (daemon === undefined) return;
    const pick = this.#random();
    const beganMs = performance.now();
    // The launcher ends VMs that have seen five deaths in a row: then one of them may be the cause.
    if (pick < 0.35 && this.#deaths < 4) {
      this.#counted(KILL);
      this.#deaths += 1;
      process.kill(daemon, 'SIGKILL');
      await this.#another(daemon);
    } else if (pick < 0.55) {
      this.#counted('reload');
      this.#deaths = 0;
      this.#launcher.kill('SIGHUP');
      await this.#another(daemon);
    } else if (pick < 0.65) {
      this.#counted('stop and start');
      this.#launcher.kill('SIGTERM');
      await this.#restart(0);
    } else if (pick < 0.72) {
      this.#counted('kill the launcher');
      this.#launcher.kill('SIGKILL');
      await this.#restart(null);
    } else if (pick < 0.76) {
      this.#counted('kill the launcher and the daemon');
      process.kill(daemon, 'SIGSTOP');
      for (const id of this.#live) this.#killed.add(id);
      this.#launcher.kill('SIGKILL');
      process.kill(daemon, 'SIGKILL');
      await this.#restart(null);
    } else return await this.#stall(daemon, pick);
    await this.#use((control) => control.host());
    this.#gapsMs.push(Math.round(performance.now() - beganMs));
  }

  async #stall(daemon: number, pick: number): Promise<void> {
    const { home, fills } = this.#options;
    const ms = 500 + this.#random() * 3000;
    if (pick > 0.92 && fills !== undefined) {
      this.#counted('fill the disk');
      const ballast = join(fills, 'ballast');
      await fill(ballast);
      await sleep(ms);
      await rm(ballast);
      return;
    }
    const [vmm] = await pidsOfVmm(home.runDir);
    const [what, pid] = pick < 0.86 || vmm === undefined ? ['daemon', daemon] : ['VMM', vmm];
    this.#counted(`stall a ${what}`);
    process.kill(pid, 'SIGSTOP');
    await sleep(ms);
    process.kill(pid, 'SIGCONT');
  }

  async #another(daemon: number): Promise<void> {
    for (const deadline = performance.now() + AGAIN_MS_MAX; ; await sleep(20)) {
      const now = daemonOf(this.#launcher.pid);
      if (now !== undefined && now !== daemon) return;
      if (performance.now() > deadline) throw new Error('the launcher starts no other daemon');
    }
  }

  async #restart(expected: number | null): Promise<void> {
    const status = await this.#launcher.ended;
    if (status !== expected) this.#fails(`the launcher ended ${status}`);
    this.#keepLog();
    this.#deaths = 0;
    this.#launcher = this.#launch();
    await this.#launcher.ready();
  }
}

/** Its creation may have been answered by a daemon that was killed. */
async function ifTaken(creating: Promise<unknown>): Promise<void> {
  try {
    await creating;
  } catch (error) {
    if (errorCode(error) !== 'name_taken') throw error;
  }
}

/** A connection that breaks is the error `connection_lost`. */
async function askPort(guest: Guest, port: number): Promise<string> {
  const connection = await guest.connect(port);
  connection.end('GET / HTTP/1.0\r\n\r\n');
  const parts: Buffer[] = [];
  try {
    for await (const part of connection) parts.push(part as Buffer);
  } finally {
    connection.destroy();
  }
  return Buffer.concat(parts).toString('latin1');
}

/** A daemon that is killed may have ended it before it could answer. */
async function removed(control: RemoteControlPlane, id: string): Promise<void> {
  try {
    await control.remove(id);
  } catch (error) {
    if (errorCode(error) !== 'gone') throw error;
  }
}

/** Takes all that is free. */
async function fill(path: string): Promise<void> {
  await using file = await open(path, 'w');
  const part = Buffer.alloc(MIB);
  try {
    for (;;) await file.write(part);
  } catch (error) {
    if (errorCode(error) !== 'ENOSPC') throw error;
  }
}

export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  return await new Chaos(options).run();
}
