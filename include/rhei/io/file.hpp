// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Files as bytes, read whole and written atomically, and the small tools that the readers of the formats share.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <rhei/core/types.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace rhei {

namespace detail {

[[noreturn, gnu::cold, gnu::noinline]] inline void throw_file(std::string_view source, const std::string& what) {
  throw std::runtime_error(std::string(source) + ": " + what);
}

/// Throws with the system's reason, which errno holds.
[[noreturn, gnu::cold, gnu::noinline]] inline void throw_system(std::string_view path, const std::string& what) {
  throw_file(path, what + ": " + std::generic_category().message(errno));
}

/// Text from a file as a message shows it: in quotes, on one line, and no longer than `limit` bytes.
inline std::string in_quotes(std::string_view text, std::size_t limit = 40) {
  std::size_t shown = text.size();
  if (shown > limit)  // do not cut a UTF-8 character in two
    for (shown = limit; shown > limit - 3 && (text[shown] & 0xc0) == 0x80;) --shown;
  std::string out = "\"";
  for (const char c : text.substr(0, shown)) {
    const auto byte = static_cast<unsigned char>(c);
    constexpr std::string_view digits = "0123456789abcdef";
    if (byte < 0x20 || byte == 0x7f)
      out.append("\\x").append(1, digits[byte >> 4]).append(1, digits[byte & 15]);
    else
      out += c;
  }
  return out + (shown < text.size() ? "...\"" : "\"");
}

/// A trivial value from its bytes, which need not be aligned.
template <class T>
T load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

/// Appends the bytes of `count` values.
template <class T>
void append_bytes(std::string& out, const T* values, Index count) {
  if (count > 0) out.append(reinterpret_cast<const char*>(values), static_cast<std::size_t>(count) * sizeof(T));
}

/// Puts the bytes of an array of dimensions >= 0 into `bytes`; false if they are more than an Index counts.
inline bool array_bytes(std::span<const Index> shape, std::size_t item_size, std::uint64_t& bytes) {
  auto total = static_cast<Index>(item_size);
  for (const Index extent : shape)
    if (__builtin_mul_overflow(total, extent, &total)) return false;
  bytes = static_cast<std::uint64_t>(total);
  return true;
}

/// A file descriptor, closed when its life ends.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }
  int close() { return ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

/// A file opened for reading from its beginning to its end.
class InputFile {
 public:
  explicit InputFile(const std::string& path) : path_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct ::stat info {};
    if (file_.get() < 0 || ::fstat(file_.get(), &info) != 0) throw_system(path_, "cannot be opened");
    if (S_ISDIR(info.st_mode)) throw_file(path_, "is a directory, expected a file");
    regular_ = S_ISREG(info.st_mode);
    size_ = regular_ ? static_cast<std::uint64_t>(info.st_size) : 0;
  }

  /// Whether it is a file on a disk, whose size is known (and not a pipe or a device).
  [[nodiscard]] bool regular() const { return regular_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }

  /// The next `count` bytes; throws if the file ends before.
  std::string read(std::uint64_t count) {
    std::string bytes = allocate(count);
    if (read_some(bytes.data(), bytes.size()) != bytes.size()) throw_file(path_, "became shorter while it was read");
    return bytes;
  }

  /// Everything up to the end.
  std::string read_rest() {
    std::string bytes = allocate(size_ + 1);  // one more than expected: the end shows without another round
    std::size_t used = 0;
    for (;;) {
      used += read_some(bytes.data() + used, bytes.size() - used);
      if (used < bytes.size()) break;
      bytes.resize(2 * bytes.size() + 4096);
    }
    bytes.resize(used);
    return bytes;
  }

 private:
  std::string allocate(std::uint64_t count) const {
    try {
      return std::string(count, '\0');
    } catch (const std::exception&) {
      throw_file(path_, "there is no memory for its " + std::to_string(count) + " bytes");
    }
  }

  /// Fills `to` unless the file ends before; returns how many bytes there were.
  std::size_t read_some(char* to, std::size_t count) {
    constexpr std::size_t portion = std::size_t{1} << 30;  // some systems refuse more at once
    std::size_t done = 0;
    while (done < count) {
      const ssize_t got = ::read(file_.get(), to + done, std::min(count - done, portion));
      if (got == 0) break;
      if (got > 0)
        done += static_cast<std::size_t>(got);
      else if (errno != EINTR)
        throw_system(path_, "cannot be read");
    }
    return done;
  }

  std::string path_;
  Descriptor file_;
  bool regular_ = false;
  std::uint64_t size_ = 0;
};

}  // namespace detail

/// The bytes of a whole file (or pipe). Throws std::runtime_error, with the path and the system's reason, for what
/// is absent, unreadable or a directory.
inline std::string read_file(const std::string& path) { return detail::InputFile(path).read_rest(); }

/// Writes `bytes` to `path` so that whoever opens it, even after a crash, finds the old contents or the new ones whole:
/// to a new file in the same folder, flushed to the disk, then renamed. Links are followed and the permissions of a
/// file that is replaced are kept.
///
/// Throws std::runtime_error, with the path and the system's reason, after removing the new file; an old one stays as
/// it was. Devices and directories are refused.
inline void write_atomically(const std::string& path, std::string_view bytes) {
  std::string target = path;
  struct ::stat old {};
  const bool replaces = ::stat(path.c_str(), &old) == 0;
  if (replaces) {
    if (!S_ISREG(old.st_mode)) detail::throw_file(path, "is a directory or a device, expected a file to be replaced");
    const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr), &std::free);
    if (!real) detail::throw_system(path, "cannot be resolved");
    target = real.get();
  }

  struct Temporary {
    std::string name;
    bool exists = false;
    ~Temporary() {
      if (exists) ::unlink(name.c_str());
    }
  } temporary;
  const auto open_new = [&] {
    for (int attempt = 0;; ++attempt) {  // O_EXCL: never someone else's file, be it of a thread of this process
      temporary.name = target + "." + std::to_string(::getpid()) + "-" + std::to_string(attempt) + ".tmp";
      const int fd = ::open(temporary.name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd >= 0 || errno != EEXIST) return fd;
    }
  };
  detail::Descriptor file(open_new());
  if (file.get() < 0) detail::throw_system(path, "cannot be written");
  temporary.exists = true;

  while (!bytes.empty()) {
    const ssize_t written = ::write(file.get(), bytes.data(), std::min(bytes.size(), std::size_t{1} << 30));
    if (written >= 0)
      bytes.remove_prefix(static_cast<std::size_t>(written));
    else if (errno != EINTR)
      detail::throw_system(path, "cannot be written");
  }
  if ((replaces && ::fchmod(file.get(), old.st_mode & 07777) != 0) || ::fsync(file.get()) != 0 || file.close() != 0 ||
      std::rename(temporary.name.c_str(), target.c_str()) != 0)
    detail::throw_system(path, "cannot be written");
  temporary.exists = false;
}

}  // namespace rhei
