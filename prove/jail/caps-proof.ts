/** Proves the identity and view of a jailed VMM: no user, file, network or process of the host. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { errorCode } from '../../src/base/errors.ts';
import { Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { Injector, type SystemCall } from './inject.ts';
import { openVmms } from './open-vmms.ts';
import type { Vmms, VmmTraits } from './vmm.ts';

const CAPABILITY_SETS = ['CapInh', 'CapPrm', 'CapEff', 'CapAmb'];
const NONE = '0000000000000000';
const O_RDONLY = 0;
const OPENAT = 257;
const AT_FDCWD = 0xffff_ff9c;

export async function proveCaps(context: JailContext): Promise<Proof> {
  const notes = new Notes();
  await using injector = await Injector.make();
  await using vmms = await openVmms(context);
  const jailed = await vmms.jailed();
  const free = await vmms.free();
  looks(notes, vmms.traits, jailed.pid, free.pid);
  await opens(notes, injector, vmms);
  return notes.proof('caps');
}

function looks(notes: Notes, traits: VmmTraits, jailed: number, free: number): void {
  const [own, other] = [statusOf(jailed), statusOf(free)];
  if (traits.keepsUser) keepsUser(notes, own);
  else ownUser(notes, own, other);
  for (const name of CAPABILITY_SETS) notes.same(name, NONE, own.get(name) ?? '');
  if (traits.dropsBounding) notes.same('CapBnd', NONE, own.get('CapBnd') ?? '');
  const bounding = other.get('CapBnd') ?? '';
  notes.note('control: CapBnd without a jail', 'some', bounding, bounding !== NONE);
  for (const task of readdirSync(`/proc/${jailed}/task`)) {
    const thread = statusOf(jailed, task);
    const filters = Number(thread.get('Seccomp_filters'));
    const seen = `Seccomp ${thread.get('Seccomp')}, ${filters} filters, NoNewPrivs ${thread.get('NoNewPrivs')}`;
    const ok = thread.get('Seccomp') === '2' && filters >= traits.filters && thread.get('NoNewPrivs') === '1';
    const expected = `Seccomp 2, ${traits.filters} filters, NoNewPrivs 1`;
    notes.note(`thread ${thread.get('Name')}`, expected, seen, ok);
  }
  notes.same('control: Seccomp without a jail', '0', other.get('Seccomp') ?? '');
  if (traits.mapsOnlyItself) maps(notes, jailed, free);
  for (const name of traits.namespaces) {
    const link = (pid: number | string): string => readlinkSync(`/proc/${pid}/ns/${name}`);
    const differs = link(jailed) !== link('self');
    notes.note(`namespace ${name}`, 'its own', differs ? 'its own' : 'the host’s', differs);
    notes.same(`control: ${name} without a jail`, 'the host’s', link(free) === link('self') ? 'the host’s' : 'its own');
  }
  const rootDir = `/proc/${jailed}/root`;
  const names = readdirSync(rootDir).sort();
  const root = names.join(' ');
  notes.note('its root', 'only its program', root, traits.root.test(root));
  const devices = names.includes('dev') ? readdirSync(join(rootDir, 'dev')).sort().join(' ') : 'none';
  notes.note('its devices', 'only what it needs', devices, traits.devices.test(devices));
  const mounts = readFileSync(`/proc/${jailed}/mounts`, 'utf8').trim().split('\n');
  const writable = mounts.filter((line) => !(line.split(' ')[3] ?? '').split(',').includes('ro'));
  notes.same(
    'its writable mounts',
    traits.writable,
    writable.length === 0 ? 'none' : writable.map((line) => line.split(' ')[1]).join('; '),
  );
  notes.same(
    'its environment',
    traits.environment,
    readFileSync(`/proc/${jailed}/environ`, 'latin1').replaceAll('\0', ' ').trim(),
  );
  notes.same('its core files', '0 bytes', `${limit(jailed, 'Max core file size')} bytes`);
}

const usersOf = (of: Map<string, string>): string => `${of.get('Uid')} / ${of.get('Gid')}`;

function ownUser(notes: Notes, own: Map<string, string>, other: Map<string, string>): void {
  const users = usersOf(own);
  const isOwn = !/\b0\b/.test(users) && own.get('Groups') === '';
  notes.note('its users and groups on the host', 'none is 0', users, isOwn);
  notes.note(
    'control: those of a VMM without a jail',
    '0',
    usersOf(other),
    /^0 0 0 0 \/ 0 0 0 0$/.test(usersOf(other)),
  );
}

/** An ordinary user can't give it another user. */
function keepsUser(notes: Notes, own: Map<string, string>): void {
  const four = (id: number | undefined): string => Array(4).fill(id).join(' ');
  const these = `${four(process.geteuid?.())} / ${four(process.getegid?.())}`;
  notes.same('its users and groups on the host: this user’s, and no other', these, usersOf(own));
}

/** The users and groups in its user namespace: a process that can change ids there can become only these. */
function maps(notes: Notes, jailed: number, free: number): void {
  for (const kind of ['uid', 'gid'] as const) {
    const read = (pid: number): string =>
      readFileSync(`/proc/${pid}/${kind}_map`, 'latin1')
        .trim()
        .replaceAll(/[ \t]+/g, ' ');
    const own = readFileSync(`/proc/${jailed}/status`, 'latin1');
    const id = new RegExp(`^${kind === 'uid' ? 'Uid' : 'Gid'}:\\s+(\\d+)`, 'm').exec(own)?.[1];
    const seen = read(jailed);
    const isOwn = new RegExp(`^\\d+ ${id} 1$`).test(seen);
    notes.note(`the ${kind}s of its user namespace`, `${id} alone`, seen, isOwn);
    const control = read(free);
    notes.note(`control: ${kind}s without a jail`, 'more than one', control, !/ 1$/.test(control));
  }
}

async function opens(notes: Notes, injector: Injector, vmms: Vmms): Promise<void> {
  const { traits } = vmms;
  const { number, paths } = traits.opens;
  for (const path of paths) {
    // openat(2), or open(2) for a program that uses only that.
    const at = number === OPENAT ? [AT_FDCWD] : [];
    const call: SystemCall = { name: path, number, args: [...at, `@${path}`, O_RDONLY, 0] };
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
    const isGone = jailed === 'returned -2' || traits.refused.includes(jailed);
    notes.note(`open ${path}`, 'not found', isGone ? `not found: ${jailed}` : jailed, isGone);
    // A host may lack a device.
    const isThere = /^returned \d+$/.test(free);
    const ok = isThere || path.startsWith('/dev/');
    notes.note(`control: open ${path} without a jail`, 'a descriptor', free, ok);
  }
}

/** Fields of /proc/<pid>/status. */
export function statusOf(pid: number, task?: string): Map<string, string> {
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
