/** Who a jailed VMM is and what it sees: no user, file, network or process of the host. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { errorCode } from '../../base/errors.ts';
import { Notes, type Proof } from '../proof.ts';
import { Injector, type SystemCall } from './inject.ts';
import { type JailContext, Vmms } from './vmm.ts';

const CAPABILITY_SETS = ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'];
const NAMESPACES = ['user', 'mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup'];
const NONE = '0000000000000000';
const O_RDONLY = 0;
const O_RDWR = 2;
const AT_FDCWD = 0xffff_ff9c;
const SIGSYS = 31;

export async function proveCaps(context: JailContext): Promise<Proof> {
  const notes = new Notes();
  await using injector = await Injector.make();
  await using vmms = await Vmms.open(context);
  const jailed = await vmms.jailed();
  const free = await vmms.free();
  looks(notes, jailed.pid, free.pid);
  await opens(notes, injector, vmms);
  return notes.proof('caps');
}

function looks(notes: Notes, jailed: number, free: number): void {
  const [own, other] = [status(jailed), status(free)];
  const users = (of: Map<string, string>): string => `${of.get('Uid')} / ${of.get('Gid')}`;
  const isOwn = !/\b0\b/.test(users(own)) && own.get('Groups') === '';
  notes.note('users and groups of it on the host', 'none is 0', users(own), isOwn);
  notes.note(
    'control: of a VMM without a jail',
    '0',
    users(other),
    /^0 0 0 0 \/ 0 0 0 0$/.test(users(other)),
  );
  for (const name of CAPABILITY_SETS) notes.same(name, NONE, own.get(name) ?? '');
  const bounding = other.get('CapBnd') ?? '';
  notes.note('control: CapBnd without a jail', 'some', bounding, bounding !== NONE);
  for (const task of readdirSync(`/proc/${jailed}/task`)) {
    const thread = status(jailed, task);
    const filters = Number(thread.get('Seccomp_filters'));
    const seen = `Seccomp ${thread.get('Seccomp')}, ${filters} filters, NoNewPrivs ${thread.get('NoNewPrivs')}`;
    const ok = thread.get('Seccomp') === '2' && filters >= 2 && thread.get('NoNewPrivs') === '1';
    notes.note(`thread ${thread.get('Name')}`, 'Seccomp 2, 2 filters, NoNewPrivs 1', seen, ok);
  }
  notes.same('control: Seccomp without a jail', '0', other.get('Seccomp') ?? '');
  for (const name of NAMESPACES) {
    const link = (pid: number | string): string => readlinkSync(`/proc/${pid}/ns/${name}`);
    const differs = link(jailed) !== link('self');
    notes.note(`namespace ${name}`, 'its own', differs ? 'its own' : 'the host’s', differs);
    notes.same(
      `control: ${name} without a jail`,
      'the host’s',
      link(free) === link('self') ? 'the host’s' : 'its own',
    );
  }
  const root = readdirSync(`/proc/${jailed}/root`).sort().join(' ');
  notes.note('its root', 'only its program', root, /^(lib|lib64|proc|usr| )*$/.test(root));
  const mounts = readFileSync(`/proc/${jailed}/mounts`, 'utf8').trim().split('\n');
  const writable = mounts.filter((line) => !(line.split(' ')[3] ?? '').split(',').includes('ro'));
  notes.same(
    'mounts that it may write to',
    'none',
    writable.length === 0 ? 'none' : writable.join('; '),
  );
  notes.same(
    'its environment',
    // Of bubblewrap.
    'PWD=/',
    readFileSync(`/proc/${jailed}/environ`, 'latin1').replaceAll('\0', ' ').trim(),
  );
  notes.same('its core files', '0 bytes', `${limit(jailed, 'Max core file size')} bytes`);
}

/** Files of the host, by path. */
async function opens(notes: Notes, injector: Injector, vmms: Vmms): Promise<void> {
  const cases = [
    ['/etc/passwd', O_RDONLY],
    ['/proc/1/status', O_RDONLY],
    ['/sys/kernel', O_RDONLY],
    ['/dev/kvm', O_RDWR],
    ['/dev/net/tun', O_RDWR],
  ] as const;
  for (const [path, flags] of cases) {
    const call: SystemCall = { name: path, number: 257, args: [AT_FDCWD, `@${path}`, flags, 0] };
    const seen: Record<string, string> = {};
    for (const [name, start] of [
      ['jailed', () => vmms.jailed()],
      ['free', () => vmms.free()],
    ] as const) {
      const vmm = await start();
      seen[name] = await injector.call(vmm.pid, call);
      await vmm.end();
    }
    const { jailed = '', free = '' } = seen;
    const isGone = jailed === 'returned -2' || jailed === `killed by ${SIGSYS}`;
    notes.note(
      `open ${path}`,
      'it is not there',
      isGone ? `it is not there: ${jailed}` : jailed,
      isGone,
    );
    // A host may lack a device.
    const isThere = /^returned \d+$/.test(free);
    const ok = isThere || path.startsWith('/dev/');
    notes.note(`control: open ${path} without a jail`, 'a descriptor', free, ok);
  }
}

function status(pid: number, task?: string): Map<string, string> {
  const path = task === undefined ? `/proc/${pid}/status` : `/proc/${pid}/task/${task}/status`;
  const lines = readFileSync(path, 'latin1').split('\n');
  return new Map(
    lines.map((line) => {
      const [name = '', value = ''] = line.split(/:\s*/);
      return [name, value.trim().replaceAll(/\s+/g, ' ')];
    }),
  );
}

function limit(pid: number, name: string): string {
  try {
    const limits = readFileSync(`/proc/${pid}/limits`, 'latin1');
    return new RegExp(`^${name}\\s+(\\S+)`, 'm').exec(limits)?.[1] ?? '';
  } catch (error) {
    return errorCode(error) ?? 'unreadable';
  }
}
