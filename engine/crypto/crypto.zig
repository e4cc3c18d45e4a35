//! Digests, signatures and zstd of Zig's standard library behind the C interface of crypto.h.
// SPDX-License-Identifier: Apache-2.0
const std = @import("std");

const digest_bytes = 48;

/// Opaque state of crypto.h; both sides fix the size, and both digests must fit into it.
const state_bytes = 384;
const state_align = 16;
const State = extern struct { data: [state_bytes]u8 align(state_align) };

/// The three steps of a digest of the standard library.
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
            inner(state).update(message(data, bytes));
        }
        fn final(state: *State, digest: *[digest_bytes]u8) callconv(.c) void {
            inner(state).final(digest);
        }
        fn inner(state: *State) *Hash {
            return @ptrCast(state);
        }
    };
}

const sha3_384 = Digest(std.crypto.hash.sha3.Sha3_384);
const sha384 = Digest(std.crypto.hash.sha2.Sha384);

// A null pointer is only legal with no bytes; an empty slice never looks at it.
fn message(data: ?[*]const u8, bytes: usize) []const u8 {
    return if (bytes == 0) &.{} else data.?[0..bytes];
}

const Ed25519 = std.crypto.sign.Ed25519;
const Mldsa87 = std.crypto.sign.mldsa.MLDSA87;

fn verifyEd25519(
    key: *const [Ed25519.PublicKey.encoded_length]u8,
    signature: *const [Ed25519.Signature.encoded_length]u8,
    data: ?[*]const u8,
    bytes: usize,
) callconv(.c) bool {
    const public = Ed25519.PublicKey.fromBytes(key.*) catch return false;
    Ed25519.Signature.fromBytes(signature.*).verifyStrict(message(data, bytes), public) catch
        return false;
    return true;
}

fn verifyMldsa87(
    key: *const [Mldsa87.PublicKey.encoded_length]u8,
    signature: *const [Mldsa87.Signature.encoded_length]u8,
    data: ?[*]const u8,
    bytes: usize,
) callconv(.c) bool {
    const public = Mldsa87.PublicKey.fromBytes(key.*) catch return false;
    const parsed = Mldsa87.Signature.fromBytes(signature.*) catch return false;
    parsed.verify(message(data, bytes), public) catch return false;
    return true;
}

/// One zstd frame; the whole of it, buffers included, lies in memory_bytes of the caller's.
const Stream = struct {
    const memory_bytes = 12 << 20;
    const window_bytes_max = 8 << 20;
    const input_bytes = 256 << 10;
    const magic = "\x28\xb5\x2f\xfd";
    const malformed = -1;
    const trailing = -2;
    const source_failed = -3;
    const Source = *const fn (context: ?*anyopaque, buffer: [*]u8, bytes: usize) callconv(.c) usize;
    const zstd = std.compress.zstd;

    input: std.Io.Reader,
    source: Source,
    context: ?*anyopaque,
    failed: bool,
    started: bool,
    decompress: zstd.Decompress,

    fn open(
        memory: [*]align(64) u8,
        source: Source,
        context: ?*anyopaque,
        content_bytes: *u64,
    ) callconv(.c) ?*Stream {
        const self: *Stream = @ptrCast(memory);
        const input = memory[@sizeOf(Stream)..][0..input_bytes];
        const output = memory[@sizeOf(Stream) + input_bytes .. memory_bytes];
        self.source = source;
        self.context = context;
        self.failed = false;
        self.started = false;
        self.input = .{
            .vtable = &.{ .stream = streamInput, .readVec = readInput },
            .buffer = input,
            .seek = 0,
            .end = 0,
        };
        const window = self.openFrame(content_bytes) orelse return null;
        self.decompress = .init(&self.input, output, .{ .window_len = window });
        return self;
    }

    /// Looks at the frame's head without reading it; returns the size of its window.
    fn openFrame(self: *Stream, content_bytes: *u64) ?u32 {
        const head_bytes_max = 18;
        self.input.fill(head_bytes_max) catch {}; // a short file has a short head
        const head = self.input.buffered();
        if (head.len < magic.len or !std.mem.eql(u8, head[0..magic.len], magic)) return null;
        var fields: std.Io.Reader = .fixed(head[magic.len..]);
        const header = zstd.Decompress.Frame.Zstandard.Header.decode(&fields) catch return null;
        content_bytes.* = header.content_size orelse return null;
        const window = header.windowSize() orelse return null;
        return if (window <= window_bytes_max) @intCast(window) else null;
    }

    fn read(self: *Stream, out: [*]u8, bytes: usize) callconv(.c) i64 {
        const reader = &self.decompress.reader;
        while (reader.seek == reader.end) {
            if (self.frameEnded()) return self.checkEnd();
            self.started = true;
            // Decodes one block into the buffer; a block may be empty.
            _ = reader.vtable.readVec(reader, &.{}) catch
                return if (self.failed) source_failed else malformed;
        }
        const count = @min(bytes, reader.end - reader.seek);
        @memcpy(out[0..count], reader.buffer[reader.seek..][0..count]);
        reader.seek += count;
        return @intCast(count);
    }

    /// Between frames, but not before the first one: there is only one.
    fn frameEnded(self: *Stream) bool {
        return self.decompress.state == .new_frame and self.started;
    }

    fn checkEnd(self: *Stream) i64 {
        self.input.fill(1) catch return if (self.failed) source_failed else 0;
        return trailing;
    }

    fn streamInput(
        reader: *std.Io.Reader,
        writer: *std.Io.Writer,
        limit: std.Io.Limit,
    ) std.Io.Reader.StreamError!usize {
        const destination = limit.slice(try writer.writableSliceGreedy(1));
        const count = try pull(reader, destination);
        writer.advance(count);
        return count;
    }

    fn readInput(reader: *std.Io.Reader, data: [][]u8) std.Io.Reader.Error!usize {
        _ = data; // always into the buffer, which the caller has either made room in or used up
        if (reader.seek == reader.end) {
            reader.seek = 0;
            reader.end = 0;
        }
        reader.end += try pull(reader, reader.buffer[reader.end..]);
        return 0;
    }

    fn pull(reader: *std.Io.Reader, destination: []u8) std.Io.Reader.Error!usize {
        const self: *Stream = @alignCast(@fieldParentPtr("input", reader));
        const count = self.source(self.context, destination.ptr, destination.len);
        if (count == 0) return error.EndOfStream;
        if (count > destination.len) {
            self.failed = true;
            return error.ReadFailed;
        }
        return count;
    }
};

comptime {
    @export(&sha3_384.init, .{ .name = "bitnet_sha3_384_init" });
    @export(&sha3_384.update, .{ .name = "bitnet_sha3_384_update" });
    @export(&sha3_384.final, .{ .name = "bitnet_sha3_384_final" });
    @export(&sha384.init, .{ .name = "bitnet_sha384_init" });
    @export(&sha384.update, .{ .name = "bitnet_sha384_update" });
    @export(&sha384.final, .{ .name = "bitnet_sha384_final" });
    @export(&verifyEd25519, .{ .name = "bitnet_ed25519_verify" });
    @export(&verifyMldsa87, .{ .name = "bitnet_mldsa87_verify" });
    @export(&Stream.open, .{ .name = "bitnet_zstd_open" });
    @export(&Stream.read, .{ .name = "bitnet_zstd_read" });
}

// A check that fails stops the program without a message: one would bring all of std.debug along.
pub const panic = std.debug.no_panic;
