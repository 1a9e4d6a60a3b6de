// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What the tests of the readers and writers share.

#include <unistd.h>
#include <cstdlib>
#include <rhei/core/random.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rhei::testing {

/// A new folder for the files of a test, removed with these at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    if (!::mkdtemp(name_.data())) throw std::runtime_error("no temporary folder");
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    for (const auto& file : files_) ::unlink(file.c_str());
    ::rmdir(name_.c_str());  // leaves a folder with files that nobody expected
  }
  [[nodiscard]] const std::string& name() const { return name_; }
  /// The path of a file in it.
  std::string operator/(const std::string& file) { return files_.emplace_back(name_ + "/" + file); }

 private:
  std::string name_ = "/tmp/rhei-test-XXXXXX";
  std::vector<std::string> files_;
};

/// `text` with one to four bytes changed, inserted, removed or cut off.
inline std::string mutate(std::string text, Rng& rng) {
  for (Index changes = 1 + rng.below(4); changes > 0 && !text.empty(); --changes) {
    const auto at = static_cast<std::size_t>(rng.below(static_cast<Index>(text.size())));
    const auto any = static_cast<char>(rng.below(256));
    constexpr std::string_view meaningful = "0123456789-+.,:;eE{}[]()\"'\\ \n\t";
    const char likely = meaningful[static_cast<std::size_t>(rng.below(static_cast<Index>(meaningful.size())))];
    switch (rng.below(6)) {
      case 0:
        text[at] = any;
        break;
      case 1:
        text[at] = likely;
        break;
      case 2:
        text.insert(at, 1, likely);
        break;
      case 3:
        text.erase(at, 1);
        break;
      case 4:
        text[at] = static_cast<char>(text[at] ^ (1 << rng.below(8)));
        break;
      default:
        text.resize(rng.below(8) == 0 ? at : text.size());
        break;
    }
  }
  return text;
}

/// How many of `count` mutations of `valid` the parser takes; what it refuses it must refuse by an exception of ours.
template <class Parse>
int survivors(const std::string& valid, int count, Parse&& parse) {
  Rng rng(20240917);
  int taken = 0;
  for (int i = 0; i < count; ++i) {
    const std::string text = mutate(valid, rng);
    try {
      parse(text);
      ++taken;
    } catch (const std::runtime_error&) {
    } catch (const std::invalid_argument&) {
    }
  }
  return taken;
}

}  // namespace rhei::testing
