import { describe, expect, it } from 'vitest';
import { LinkError } from '../netlink/errors.ts';
import type { Link } from '../netlink/rtnetlink-link.ts';
import { LinkRemoval } from './removal.ts';

/** Links of a host by index; closing a TAP removes its link unless a VMM has it too. */
class Host {
  readonly present = new Map<number, number>();
  readonly calls: string[] = [];
  readonly heldByVmm = new Set<number>();
  readonly foreign = new Map<number, string>();
  groupFails = false;
  closing = Promise.resolve();

  tap(linkIndex: number) {
    this.present.set(linkIndex, 0);
    const close = async (): Promise<void> => {
      this.calls.push(`close ${linkIndex}`);
      await this.closing;
      if (!this.heldByVmm.has(linkIndex)) this.present.delete(linkIndex);
    };
    return { name: `nv-${linkIndex}`, close };
  }
  find(which: string | number): Link | undefined {
    const named = (index: number): string => this.foreign.get(index) ?? `nv-${index}`;
    const index = [...this.present.keys()].find((each) => each === which || named(each) === which);
    return index === undefined ? undefined : ({ index, name: named(index) } as Link);
  }
  change(linkIndex: number, { group = 0 }: { group?: number }): void {
    if (!this.present.has(linkIndex)) throw new LinkError('not_found', 'change a link');
    this.present.set(linkIndex, group);
  }
  remove(linkIndex: number): void {
    this.calls.push(`remove ${linkIndex}`);
    this.present.delete(linkIndex);
  }
  async removeGroup(group: number): Promise<void> {
    this.calls.push('remove group');
    if (this.groupFails) throw new LinkError('failed', 'remove a group');
    for (const [index, of] of this.present) if (of === group) this.present.delete(index);
  }
}

describe('LinkRemoval', () => {
  it('removes a TAP by closing it, or by its index if a VMM still holds it', async () => {
    const host = new Host();
    const removal = new LinkRemoval(host, 1);
    await removal.remove(host.tap(1));
    host.heldByVmm.add(2);
    await removal.remove(host.tap(2));
    expect(host.calls).toEqual(['close 1', 'close 2', 'remove 2']);
    expect(host.present.size).toBe(0);
  });

  it('removes TAPs that arrived meanwhile as one group, and no other link', async () => {
    const host = new Host();
    host.tap(99);
    const first = Promise.withResolvers<void>();
    host.closing = first.promise;
    const removal = new LinkRemoval(host, 1);
    const all = [1, 2, 3].map((index) => removal.remove(host.tap(index)));
    expect(host.calls).toEqual(['close 1']);
    first.resolve();
    await Promise.all(all);
    expect(host.calls).toEqual(['close 1', 'remove group', 'close 2', 'close 3']);
    expect([...host.present.keys()]).toEqual([99]);
  });

  it('a group that can’t be removed, or a TAP that is already gone, does not affect the others', async () => {
    const host = new Host();
    host.groupFails = true;
    host.heldByVmm.add(3);
    const removal = new LinkRemoval(host, 1);
    const taps = [1, 2, 3].map((index) => host.tap(index));
    host.present.delete(2);
    await Promise.all(taps.map((tap) => removal.remove(tap)));
    expect(host.present.size).toBe(0);
  });

  it('keeps a link that reuses the index of a TAP that did not come back, alone and in a group', async () => {
    const host = new Host();
    const taps = [1, 2, 3].map((index) => host.tap(index));
    for (const index of [1, 3]) host.foreign.set(index, `eth${index}`);
    host.heldByVmm.add(1).add(2).add(3);
    const removal = new LinkRemoval(host, 1);
    await Promise.all(taps.map((tap) => removal.remove(tap)));
    expect([...host.present]).toEqual([
      [1, 0],
      [3, 0],
    ]);
  });

  it('remove: fails only for the TAP that can’t be removed', async () => {
    const host = new Host();
    host.heldByVmm.add(2);
    host.groupFails = true;
    host.remove = () => {
      throw new LinkError('not_permitted', 'remove a link');
    };
    const removal = new LinkRemoval(host, 1);
    const results = await Promise.allSettled([1, 2, 3].map((index) => removal.remove(host.tap(index))));
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    await removal.remove(host.tap(4));
  });
});
