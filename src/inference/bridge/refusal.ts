export { accepted, type Checked, type Refusal, refused } from '../../base/http/refusal.ts';
