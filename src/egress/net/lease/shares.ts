/** Limits that the sandboxes of a process share at its resolver and gateway, so that none can use up everything. */
import { FairShare } from '../../../base/fairness/fair-share.ts';
import { QUESTION_SHARES } from '../dns/answers.ts';
import { CONNECTION_SHARES } from '../gateway/gateway.ts';
import { DECRYPTION_SHARES } from '../gateway/sandbox.ts';

export class NetworkShares {
  readonly connections = new FairShare(CONNECTION_SHARES);
  readonly decryptions = new FairShare(DECRYPTION_SHARES);
  readonly questions = new FairShare(QUESTION_SHARES);
}
