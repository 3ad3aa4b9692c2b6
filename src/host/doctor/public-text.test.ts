import { describe, expect, it } from 'vitest';
import { CodedError } from '../../base/errors.ts';
import { namesHere, pathForms, publicError, publicText } from './public-text.ts';

const SECRETS = { names: ['alice'], paths: [] };
const NONE = { names: [], paths: [] };

describe('publicText', () => {
  it.each([
    [
      'could not use the directory /home/user/.neurovisor/run: it is shared',
      'could not use the directory <path>: it is shared',
    ],
    ['~/bin/firecracker is missing', '<path> is missing'],
    ['("/srv/x y") and /a', '("<path> y") and <path>'],
    ['10.1.2.3:7070 and fe80::1ff:fe23:4567:890a and ::1', '<address>:7070 and <address> and <address>'],
    ['https://user:pass@host/path?key=1 refused', '<url> refused'],
    ['mail alice@example.org', 'mail <address>'],
    ['the control group /sys/fs/cgroup/app.slice/x.service', 'the control group <path>'],
    ['Alice on ALICEHOST', '<name> on <name>HOST'],
    ['two\nlines\x1b[31m', 'two lines?[31m'],
  ])('publicText: %j', (text, expected) => {
    expect(publicText(text, SECRETS)).toBe(expected);
  });
  it('publicText: keeps paths that are the same everywhere, versions and figures', () => {
    for (const text of [
      "/dev/kvm can't be opened by this user",
      'write /proc/sys/kernel/unprivileged_userns_clone',
      'the control groups at /sys/fs/cgroup have no controller for memory',
      'no limit of memory, pids: no control group of it can be made here',
      "KVM can't run Linux guests: guest code is emulated (0.8 million instructions/s, native is above 500)",
      '6.18.44-fc-v857',
    ]) {
      expect(publicText(text, SECRETS)).toBe(text);
    }
  });
  it('publicText: configured paths, whatever their characters', () => {
    const paths = pathForms(['/srv/acme (b): c', 'acme/fc', 'acme-fc', '/', '']);
    const text = `/srv/acme (b): c/cache/x, acme/fc, acme-fc and ${process.cwd()}/acme/fc`;
    expect(publicText(text, { names: [], paths })).toBe('<path>, <path>, <path> and <path>');
    expect(publicText('/dev/kvm', { names: [], paths })).toBe('/dev/kvm');
  });
  it('publicText: is short', () => {
    expect(publicText('x'.repeat(10_000), NONE)).toHaveLength(300);
  });
});

describe('publicError', () => {
  it('publicError: keeps codes and our own messages; omits those of other programs', () => {
    class Own extends CodedError {}
    const said = new Error('the token sk-planted of alice is wrong');
    const failed = Object.assign(new Error('open /home/alice'), { code: 'EACCES', cause: said });
    const error = new Own('jail_unavailable', 'could not use /home/user/x', { cause: failed });
    expect(publicError(error, NONE)).toBe('jail_unavailable: could not use <path>: EACCES: another error');
  });
});

describe('namesHere', () => {
  it('namesHere: names from the environment, long ones first; none that is common or too short', () => {
    const names = namesHere({ USER: 'alice', SUDO_USER: 'al', LOGNAME: 'root', HOSTNAME: 'host.example.org' });
    expect(names).toContain('alice');
    expect(names).toContain('host.example.org');
    expect(names).not.toContain('al');
    expect(names).not.toContain('root');
    expect(names).toEqual([...names].sort((one, other) => other.length - one.length));
  });
});
