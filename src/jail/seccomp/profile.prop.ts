import { describe, it } from 'vitest';
import { runTarget } from '../../../test/fuzz/regressions.ts';
import { seccomp } from '../../../test/fuzz/seccomp.ts';

describe('profile properties', () => {
  it('seccomp: any text is a profile or refused, and decides calls as it means', () =>
    runTarget(seccomp));
});
