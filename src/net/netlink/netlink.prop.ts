import { describe, it } from 'vitest';
import { netlink } from '../../../test/fuzz/netlink.ts';
import { runTarget } from '../../../test/fuzz/regressions.ts';

describe('netlink properties', () => {
  it('netlink: any answer is read or malformed, and what is written reads back', () =>
    runTarget(netlink));
});
