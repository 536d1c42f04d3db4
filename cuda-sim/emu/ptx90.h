// (empty until Hopper lands)
#pragma once
