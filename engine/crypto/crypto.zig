//! Digests of Zig's standard library behind the C interface of crypto.h.
// SPDX-License-Identifier: Apache-2.0
const std = @import("std");

const digest_bytes = 48;

/// Opaque state of crypto.h; both sides fix the size, and both digests must fit into it.
const state_bytes = 384;
const state_align = 16;
const State = extern struct { data: [state_bytes]u8 align(state_align) };

/// The three steps and the one call of a digest of the standard library.
fn Digest(comptime Hash: type) type {
    comptime {
        std.debug.assert(Hash.digest_length == digest_bytes);
        std.debug.assert(@sizeOf(Hash) <= state_bytes);
        std.debug.assert(@alignOf(Hash) <= state_align);
    }
    return struct {
        fn init(state: *State) callconv(.c) void {
            inner(state).* = Hash.init(.{});
        }
        fn update(state: *State, data: ?[*]const u8, bytes: usize) callconv(.c) void {
            inner(state).update(slice(data, bytes));
        }
        fn final(state: *State, digest: *[digest_bytes]u8) callconv(.c) void {
            inner(state).final(digest);
        }
        fn once(data: ?[*]const u8, bytes: usize, digest: *[digest_bytes]u8) callconv(.c) void {
            Hash.hash(slice(data, bytes), digest, .{});
        }
        fn inner(state: *State) *Hash {
            return @ptrCast(state);
        }
        // A null pointer is only legal with no bytes; an empty slice never looks at it.
        fn slice(data: ?[*]const u8, bytes: usize) []const u8 {
            return if (bytes == 0) &.{} else data.?[0..bytes];
        }
    };
}

const sha3_384 = Digest(std.crypto.hash.sha3.Sha3_384);
const sha384 = Digest(std.crypto.hash.sha2.Sha384);

comptime {
    @export(&sha3_384.init, .{ .name = "bitnet_sha3_384_init" });
    @export(&sha3_384.update, .{ .name = "bitnet_sha3_384_update" });
    @export(&sha3_384.final, .{ .name = "bitnet_sha3_384_final" });
    @export(&sha3_384.once, .{ .name = "bitnet_sha3_384" });
    @export(&sha384.init, .{ .name = "bitnet_sha384_init" });
    @export(&sha384.update, .{ .name = "bitnet_sha384_update" });
    @export(&sha384.final, .{ .name = "bitnet_sha384_final" });
    @export(&sha384.once, .{ .name = "bitnet_sha384" });
}

// The checks that would need it are compiled out; should one ever be reached, stop.
pub const panic = std.debug.no_panic;
