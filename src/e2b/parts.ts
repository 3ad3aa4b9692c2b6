/** What all parts of the E2B interface share. */
import type { Clock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import type { ControlPlane } from '../sandbox/control.ts';
import type { Callers } from '../tenants/callers.ts';
import type { AccessTokens } from './tokens.ts';

export interface E2bParts {
  readonly control: ControlPlane;
  readonly clock: Clock;
  readonly log: Log;
  readonly tokens: AccessTokens;
  /** Who has which key, and sees what. */
  readonly callers: Callers;
  /** Names of ports end with it: `PORT-ID.DOMAIN`. It may hold a port. */
  readonly domain: () => string;
}
