import { describe, expect, it } from 'vitest';
import type { SandboxId } from '../../../base/ids.ts';
import { AddressPlan } from '../addresses/address-plan.ts';
import { parsePolicy } from '../policy/egress-rules.ts';
import { add, type NftObject } from './json.ts';
import { addSandbox, removeSandbox, wholeTable } from './ruleset.ts';
import { ownerCounter, readContents } from './table-owners.ts';

const ID = 'abcdefghij0123456789' as SandboxId;
const owner = { pid: 4_194_304, startTicks: '18446744073709551615' };
const lease = new AddressPlan('10.201.7.0/24').lease(ID);
const listed = (commands: readonly NftObject[]): NftObject[] =>
  commands.flatMap(({ add: object }) => (object === undefined ? [] : [object as NftObject]));

describe('table owners', () => {
  it('an entry is read back as it was written, in a name that nft accepts', () => {
    const name = ownerCounter(lease, owner);
    expect(name).toMatch(/^[a-z][A-Za-z0-9/._-]{1,127}$/);
    const { id, tap, subnet } = lease;
    const contents = readContents(listed([add('counter', { name })]));
    expect(contents).toEqual({ layout: 'none', entries: [{ owner, lease: { id, tap, subnet } }] });
  });
  it('what is added with an owner is removed with it', () => {
    const policy = parsePolicy({ mode: 'open' });
    const added = JSON.stringify(addSandbox({ lease, policy, owner }));
    expect(added).toContain(ownerCounter(lease, owner));
    expect(JSON.stringify(removeSandbox(lease, owner))).toContain(ownerCounter(lease, owner));
    expect(JSON.stringify(removeSandbox(lease))).not.toContain('owner/');
  });
  it('distinguishes our layout, another one and none', () => {
    expect(readContents(listed(wholeTable([])))).toEqual({ layout: 'ours', entries: [] });
    const other = listed([add('counter', { name: 'layout_999' })]);
    expect(readContents(other).layout).toBe('other');
    expect(readContents([]).layout).toBe('none');
  });
  it.each([
    ['another table', { family: 'inet', table: 'other', name: ownerCounter(lease, owner) }],
    ['another family', { family: 'ip', table: 'neurovisor', name: ownerCounter(lease, owner) }],
    ['no address', { family: 'inet', table: 'neurovisor', name: 'owner/x/1.1/nv-a/1.2' }],
    ['no id', { family: 'inet', table: 'neurovisor', name: 'owner/x/1.1/nv-a/10.0.0.0' }],
    ['no name', { family: 'inet', table: 'neurovisor' }],
    ['nothing', null],
  ])('ignores %s', (_what, counter) => {
    expect(readContents([{ counter }])).toEqual({ layout: 'none', entries: [] });
  });
});
