/** Error classes of the mechanisms, for users of the library: what set-up and operations reject with, or name as cause. */
export { BridgeError } from '../bridge/errors.ts';
export { CassetteError, type CassetteErrorCode } from '../bridge/tape/errors.ts';
export { EngineError } from '../engine/errors.ts';
export { GuestError, type GuestErrorCode } from '../guest/errors.ts';
export { ImageError } from '../image/errors.ts';
export { JailError } from '../jail/errors.ts';
export { NetError } from '../net/errors.ts';
export { StoreError } from '../store/errors.ts';
export { VmmError } from '../vmm/errors.ts';
export { VsockError } from '../vsock/errors.ts';
export { RuntimeError } from './errors.ts';
