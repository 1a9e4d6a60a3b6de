// SPDX-License-Identifier: MIT

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <csignal>
#include <cstdint>
#include <rhei/io/file.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace rhei;
using namespace rhei::testing;

namespace {

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  DIR* dir = ::opendir(folder.c_str());
  REQUIRE(dir);
  while (const ::dirent* entry = ::readdir(dir))
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  ::closedir(dir);
  return names;
}

}  // namespace

TEST_CASE("files come back byte for byte", "[io][file]") {
  testing::TemporaryFolder folder;
  const std::string path = folder / "bytes";
  std::string bytes;
  for (int i = 0; i < 100'000; ++i) bytes += static_cast<char>(i + i / 256);
  for (const std::string& contents : {bytes, std::string(), std::string("a\0b", 3)}) {
    write_atomically(path, contents);
    CHECK(read_file(path) == contents);
  }
}

TEST_CASE("a file whose size is not known is read to its end", "[io][file]") {
  CHECK(contains(read_file("/proc/self/status"), "Pid:"));
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const std::string sent(300'000, 'x');
  std::thread writer([&] {
    std::string_view rest = sent;
    while (!rest.empty()) {
      const auto written = ::write(ends[1], rest.data(), rest.size());
      if (written <= 0) break;
      rest.remove_prefix(static_cast<std::size_t>(written));
    }
    ::close(ends[1]);
  });
  const std::string got = read_file("/proc/self/fd/" + std::to_string(ends[0]));
  writer.join();
  ::close(ends[0]);
  CHECK(got == sent);
}

TEST_CASE("what is not a readable file is refused with path and reason", "[io][file]") {
  testing::TemporaryFolder folder;
  const std::string absent = folder / "absent";
  CHECK(error_text<std::runtime_error>([&] { read_file(absent); }) ==
        absent + ": cannot be opened: No such file or directory");
  CHECK(error_text<std::runtime_error>([&] { read_file(folder.name()); }) ==
        folder.name() + ": is a directory, expected a file");
}

TEST_CASE("a write that fails leaves everything as it was", "[io][file]") {
  testing::TemporaryFolder folder;
  const std::string nowhere = folder.name() + "/no/such";
  CHECK(error_text<std::runtime_error>([&] { write_atomically(nowhere, "x"); }) ==
        nowhere + ": cannot be written: No such file or directory");
  CHECK(contains(error_text<std::runtime_error>([&] { write_atomically(folder.name(), "x"); }), "is a directory"));
  CHECK(contains(error_text<std::runtime_error>([&] { write_atomically("/dev/null", "x"); }),
                 "/dev/null: is a directory or a device"));

  // a disk that fills up in the middle of it, as the system plays it for us
  const std::string path = folder / "kept";
  write_atomically(path, "old");
  ::rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const ::rlimit tight{1000, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &tight) == 0);
  const std::string text = error_text<std::runtime_error>([&] { write_atomically(path, std::string(5000, 'x')); });
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(text == path + ": cannot be written: File too large");
  CHECK(read_file(path) == "old");
  CHECK(names_in(folder.name()) == std::vector<std::string>{"kept"});
}

TEST_CASE("replacing follows links and keeps permissions", "[io][file]") {
  testing::TemporaryFolder folder;
  const std::string path = folder / "real", link = folder / "link";
  write_atomically(path, "old");
  REQUIRE(::chmod(path.c_str(), 0640) == 0);
  REQUIRE(::symlink("real", link.c_str()) == 0);
  write_atomically(link, "new");
  CHECK(read_file(path) == "new");
  struct ::stat info {};
  REQUIRE(::lstat(link.c_str(), &info) == 0);
  CHECK(S_ISLNK(info.st_mode));
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0640);
}

TEST_CASE("text in messages is short, on one line and cut between characters", "[io][file]") {
  CHECK(detail::in_quotes("abc") == "\"abc\"");
  CHECK(detail::in_quotes(std::string_view("a\n\x01\0", 4)) == "\"a\\x0a\\x01\\x00\"");
  // in names of their own: g++ 12 sees an overflow in sums of strings like these
  const std::string many(50, 'a'), forty(40, 'a'), fewer(39, 'a'), cut = fewer + "\xc3\xa4z", quote = "\"";
  CHECK(detail::in_quotes(many) == quote + forty + "...\"");
  CHECK(detail::in_quotes(cut) == quote + fewer + "...\"");
}

TEST_CASE("sizes of arrays are counted without overflow", "[io][file]") {
  std::uint64_t bytes = 7;
  const auto count = [&](std::vector<Index> shape) { return detail::array_bytes(shape, 8, bytes); };
  CHECK((count({}) && bytes == 8));
  CHECK((count({3, 5}) && bytes == 120));
  CHECK((count({0, 5}) && bytes == 0));
  CHECK((count({Index{1} << 59}) && bytes == std::uint64_t{1} << 62));
  CHECK_FALSE(count({Index{1} << 60}));
  CHECK_FALSE(count({Index{1} << 31, Index{1} << 31}));
}
