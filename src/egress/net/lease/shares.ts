/** What the sandboxes of a process share of its resolver and gateway, so that none of them can use up all of it. */
import { FairShare } from '../../../base/fairness/fair-share.ts';
import { QUESTION_SHARES } from '../dns/answers.ts';
import { CONNECTION_SHARES } from '../gateway/gateway.ts';
import { DECRYPTION_SHARES } from '../gateway/sandbox.ts';

export class NetworkShares {
  /** Open connections to gateways. */
  readonly connections = new FairShare(CONNECTION_SHARES);
  /** Those of them that are decrypted. */
  readonly decryptions = new FairShare(DECRYPTION_SHARES);
  /** Questions that wait for an upstream. */
  readonly questions = new FairShare(QUESTION_SHARES);
}
