/**
 * Error classes of the mechanisms, exported for library users: set-up and operations reject with them, or have them as
 * cause.
 */

export { DockerfileError } from '../../artifacts/dockerfile/errors.ts';
export { ImageError } from '../../artifacts/image/errors.ts';
export { OciError } from '../../artifacts/oci/errors.ts';
export { NetError } from '../../egress/net/errors.ts';
export { BridgeError } from '../../inference/bridge/errors.ts';
export { CassetteError, type CassetteErrorCode } from '../../inference/bridge/tape/errors.ts';
export { EngineError } from '../../inference/engine/errors.ts';
export { GuestError, type GuestErrorCode } from '../../machine/guest/errors.ts';
export { JailError } from '../../machine/jail/errors.ts';
export { VmmError } from '../../machine/vmm/errors.ts';
export { VsockError } from '../../machine/vsock/errors.ts';
export { StoreError } from '../../sandbox/store/errors.ts';
export { RuntimeError } from './errors.ts';
export { ModelError } from './pulled-models/errors.ts';
